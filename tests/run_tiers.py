"""Runs the checks and the test tiers, one table at the end; the exit code says whether all is well.

A tier is a folder under tests/. Which of them are expected follows from the machine: one that
cannot run is printed with its reason, one that is expected and ran no test fails.

    quick   linters, types, and each tier without the tests marked `slow`   (make test)
    slow    the tests marked `slow`                                         (make test-rest)
    all     both at once, for a tier that is named
    total   the closing lines of the last `quick` and `slow` together       (make test-all)
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ET
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / ".test-results"
NO_TIERS = {"testkit", "golden"}
FIRST = ["contracts", "unit", "numerics", "distributed"]  # the quickest to fail come first
# Most tests of these tiers take one process, so two test files run at a time. The other tiers start
# processes of their own and measure how long a recovery takes, so they run one by one.
TWO_AT_A_TIME = {"contracts", "unit", "numerics"}
CHECKS = {
    "ruff check": ["ruff", "check", "."],
    "ruff format": ["ruff", "format", "--check", "."],
    "mypy": ["mypy"],
    "import-linter": ["lint-imports"],
}


@dataclass(frozen=True)
class Row:
    """What became of one tier; `seconds` is the sum over its tests."""

    tier: str
    passed: int
    failed: int
    skipped: int
    seconds: float
    result: str


def no_gpu() -> str | None:
    """Why the gpu tier cannot run here; None if it can."""
    import torch

    return None if torch.cuda.is_available() else "no GPU"


def no_browser() -> str | None:
    """Why the browser tier cannot run here; None if it can."""
    sys.path.insert(0, str(ROOT))
    from tests.testkit.browser import why_no_browser

    return why_no_browser()


CANNOT_RUN: dict[str, Callable[[], str | None]] = {"gpu": no_gpu, "browser": no_browser}


def find_tiers(tests: Path) -> list[str]:
    """The folders under `tests` that hold tests, in the order in which they run."""
    found = {path.relative_to(tests).parts[0] for path in tests.glob("*/**/test_*.py")} - NO_TIERS
    return sorted(found, key=lambda tier: (FIRST.index(tier) if tier in FIRST else 99, tier))


def run_checks() -> Row:
    """Linters and types, each counted as one test."""
    started, failed = time.monotonic(), []

    def run(check: list[str]) -> subprocess.CompletedProcess[str]:
        tool, *arguments = check
        program = str(Path(sys.executable).parent / tool)
        return subprocess.run([program, *arguments], cwd=ROOT, capture_output=True, text=True)

    with ThreadPoolExecutor(2) as pool:
        outcomes = list(pool.map(run, CHECKS.values()))
    for name, done in zip(CHECKS, outcomes, strict=True):
        print(f"{name}: {'ok' if done.returncode == 0 else 'FAILED'}", flush=True)
        if done.returncode != 0:
            failed.append(name)
            print(done.stdout + done.stderr, flush=True)
    seconds = time.monotonic() - started
    result = f"FAILED: {', '.join(failed)}" if failed else "ok"
    return Row("checks", len(CHECKS) - len(failed), len(failed), 0, seconds, result)


def run_tiers(tiers: list[str], which: str) -> list[Row]:
    """One row for each tier.

    Tiers whose tests can run two at a time share a pytest process. Slow tests of theirs compute
    for minutes without a pause, so they run beside the other tiers, with the time that is left.
    """
    reasons = {tier: CANNOT_RUN[tier]() for tier in tiers if tier in CANNOT_RUN}
    rows = {
        tier: Row(tier, 0, 0, 0, 0.0, f"not run: {reason}")
        for tier, reason in reasons.items()
        if reason is not None
    }
    together = [tier for tier in tiers if tier in TWO_AT_A_TIME and tier not in rows]
    alone = [tier for tier in tiers if tier not in TWO_AT_A_TIME and tier not in rows]
    with ThreadPoolExecutor(1) as pool:
        beside = None
        if together and which == "slow":
            beside = pool.submit(run_pytest, together, which, niceness=10)
        elif together:
            # The file that takes longest, in numerics, must not be the last one to start.
            options = ("--numprocesses=2", "--dist=loadfile", "--no-loadscope-reorder")
            rows |= run_pytest(together[::-1], which, *options)
        for tier in alone:
            rows |= run_pytest([tier], which)
        if beside is not None:
            rows |= beside.result()
    return [rows[tier] for tier in tiers]


def run_pytest(tiers: list[str], which: str, *options: str, niceness: int = 0) -> dict[str, Row]:
    """One pytest process over the folders of some tiers.

    With a niceness it runs beside others, so its output is printed when it has ended.
    """
    marker = {"quick": ["-m", "not slow"], "slow": ["-m", "slow"], "all": []}[which]
    title = f"\n== {', '.join(tiers)} ({which})"
    if not niceness:
        print(title, flush=True)
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        command = ["nice", f"-n{niceness}", sys.executable, "-m", "pytest", "-q"]
        command += [*options, *marker]
        command += [f"--junitxml={report}", "--durations=10", "--durations-min=20"]
        command += [f"tests/{tier}" for tier in tiers]
        told = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT} if niceness else {}
        done = subprocess.run(command, cwd=ROOT, text=True, check=False, **told)
        counted = {tier: count(report, tier) for tier in tiers}
    if niceness:
        print(title, done.stdout, sep="\n", flush=True)
    code = done.returncode
    any_failed = any(found.failed for found in counted.values())
    # pytest's code 1 says that tests failed: in another tier, if this one has none that failed.
    return {
        tier: judge(found, 0 if code == 1 and any_failed and not found.failed else code, which)
        for tier, found in counted.items()
    }


def judge(row: Row, code: int, which: str) -> Row:
    """The row of a tier that was expected to run, with its result."""
    if row.passed + row.failed == 0:
        if code in (0, 5) and which == "slow" and row.skipped == 0:
            return replace(row, result="no slow tests")
        return replace(row, failed=1, result="FAILED: expected, but ran no test")
    if code != 0:
        return replace(row, failed=max(1, row.failed), result=f"FAILED (pytest exit code {code})")
    return row


def count(report: Path, tier: str) -> Row:
    """A tier's tests in a JUnit report: passed, failed (or broken), skipped and their seconds.

    All are zero when there is no report.
    """
    if not report.exists():
        return Row(tier, 0, 0, 0, 0.0, "ok")
    passed = failed = skipped = 0
    seconds = 0.0
    for case in ET.parse(report).iter("testcase"):
        # A broken module's case has no class, and the module's path as its name.
        where = case.get("classname") or case.get("name", "")
        if not f"{where}.".startswith(f"tests.{tier}."):
            continue
        seconds += float(case.get("time", 0))
        outcomes = {child.tag for child in case}
        if outcomes & {"failure", "error"}:
            failed += 1
        elif "skipped" in outcomes:
            skipped += 1
        else:
            passed += 1
    return Row(tier, passed, failed, skipped, seconds, "ok")


def close(rows: list[Row]) -> int:
    """Prints the table and the closing line; returns the exit code."""
    print(f"\n{'tier':<22}{'tests':>7}{'seconds':>10}  result")
    for row in rows:
        tests = row.passed + row.failed
        print(f"{row.tier:<22}{tests:>7}{row.seconds:>10.1f}  {row.result}")
    passed, failed, skipped = (
        sum(getattr(row, name) for row in rows) for name in ("passed", "failed", "skipped")
    )
    if passed + failed == 0:
        print("no test ran at all")
        failed = 1
    print(f"{passed} passed, {failed} failed" + (f", {skipped} skipped" if skipped else ""))
    return 1 if failed else 0


def total() -> int:
    """The last `quick` and `slow` runs as one."""
    rows = []
    for which in ("quick", "slow"):
        saved = RESULTS / f"{which}.json"
        if not saved.exists():
            rows.append(Row(which, 0, 1, 0, 0.0, "FAILED: did not get to its end"))
            continue
        for row in json.loads(saved.read_text()):
            rows.append(Row(**row | {"tier": f"{row['tier']} ({which})"}))
    return close(rows)


def main(argv: list[str]) -> int:
    """Returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("which", choices=["quick", "slow", "all", "total"])
    parser.add_argument("--tier", action="append", help="only this tier, without the checks")
    arguments = parser.parse_args(argv)
    if arguments.which == "total":
        return total()
    tiers = find_tiers(ROOT / "tests")
    unknown = sorted(set(arguments.tier or []) - set(tiers))
    if unknown:
        print(f"no tests in tests/{unknown[0]}; there are: {', '.join(tiers)}", file=sys.stderr)
        return 2
    started = time.monotonic()
    saved = RESULTS / f"{arguments.which}.json"
    RESULTS.mkdir(exist_ok=True)
    saved.unlink(missing_ok=True)
    rows = [] if arguments.tier or arguments.which == "slow" else [run_checks()]
    rows += run_tiers(arguments.tier or tiers, arguments.which)
    if not arguments.tier:
        saved.write_text(json.dumps([asdict(row) for row in rows]))
    code = close(rows)
    print(f"{(time.monotonic() - started) / 60:.1f} minutes by the clock")
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
