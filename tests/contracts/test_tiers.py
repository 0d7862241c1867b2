"""The runner of the tiers cannot be green by running nothing."""

from pathlib import Path

import pytest

from tests import run_tiers
from tests.run_tiers import Row, close, count, find_tiers, judge
from tests.testkit.repository import ROOT


def test_the_tiers_that_every_machine_runs_are_there() -> None:
    found = find_tiers(ROOT / "tests")
    assert found[:4] == ["contracts", "unit", "numerics", "distributed"]
    assert not {"testkit", "golden"} & set(found)


def test_a_new_folder_with_tests_is_a_tier(tmp_path: Path) -> None:
    for name in ("unit/models", "chaos", "testkit", "empty"):
        (tmp_path / name).mkdir(parents=True)
    for name in ("unit/models/test_a.py", "chaos/test_b.py", "testkit/test_c.py", "empty/d.py"):
        (tmp_path / name).touch()
    assert find_tiers(tmp_path) == ["unit", "chaos"]


@pytest.mark.parametrize(
    ("code", "passed", "failed", "which", "result", "counted"),
    [
        (0, 3, 0, "quick", "ok", 0),
        (5, 0, 0, "quick", "FAILED: expected, but ran no test", 1),
        (0, 0, 0, "all", "FAILED: expected, but ran no test", 1),
        (5, 0, 0, "slow", "no slow tests", 0),
        (0, 0, 0, "slow", "no slow tests", 0),
        (3, 0, 0, "slow", "FAILED: expected, but ran no test", 1),
        (1, 3, 2, "quick", "FAILED (pytest exit code 1)", 2),
        (2, 3, 0, "quick", "FAILED (pytest exit code 2)", 1),
        (-9, 3, 0, "slow", "FAILED (pytest exit code -9)", 1),
    ],
)
def test_a_tier_is_judged(
    code: int, passed: int, failed: int, which: str, result: str, counted: int
) -> None:
    found = judge(Row("unit", passed, failed, 0, 1.0, "ok"), code, which)
    assert (found.failed, found.result) == (counted, result)


def test_a_tier_of_skipped_tests_has_run_none() -> None:
    for which in ("quick", "slow"):
        found = judge(Row("unit", 0, 0, 7, 1.0, "ok"), 0, which)
        assert found.result == "FAILED: expected, but ran no test"


def test_a_tier_that_cannot_run_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_tiers, "CANNOT_RUN", {"gpu": lambda: "no GPU"})
    (row,) = run_tiers.run_tiers(["gpu"], "quick")
    assert row.result == "not run: no GPU"


def test_tiers_that_share_a_process_are_judged_one_by_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A real pytest process over two tiers, of which one has a test that fails."""
    monkeypatch.setattr(run_tiers, "ROOT", tmp_path)
    tests = {
        "contracts": "def test_a(): pass",
        "unit": "def test_b(): assert 0\ndef test_c(): pass",
    }
    for tier, text in tests.items():
        (tmp_path / "tests" / tier).mkdir(parents=True)
        (tmp_path / "tests" / tier / "test_it.py").write_text(text)
    (tmp_path / "pytest.ini").write_text(
        "[pytest]\naddopts=--import-mode=importlib\nmarkers=slow\n"
    )
    contracts, unit = run_tiers.run_tiers(["contracts", "unit"], "quick")
    assert (contracts.passed, contracts.failed, contracts.result) == (1, 0, "ok")
    assert (unit.passed, unit.failed, unit.result) == (1, 1, "FAILED (pytest exit code 1)")
    (tmp_path / "tests/unit/test_it.py").write_text("import nothing_of_this_name")
    _, unit = run_tiers.run_tiers(["contracts", "unit"], "quick")
    assert unit.result == "FAILED (pytest exit code 1)"


def test_the_closing_line_counts_every_tier(capsys: pytest.CaptureFixture[str]) -> None:
    rows = [Row("unit", 3, 0, 0, 1.0, "ok"), Row("gpu", 0, 0, 0, 0.0, "not run: no GPU")]
    assert close(rows) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "3 passed, 0 failed"
    assert close([*rows, Row("chaos", 1, 2, 4, 1.0, "FAILED")]) == 1
    assert capsys.readouterr().out.splitlines()[-1] == "4 passed, 2 failed, 4 skipped"
    assert close([rows[1]]) == 1
    assert capsys.readouterr().out.splitlines()[-1] == "0 passed, 1 failed"


def test_outcomes_are_read_from_the_report(tmp_path: Path) -> None:
    report = tmp_path / "report.xml"
    assert count(report, "unit") == Row("unit", 0, 0, 0, 0.0, "ok"), "a dead process left none"
    case = '<testcase classname="tests.unit.test_a" time="0.5">{}</testcase>'
    outcomes = ("", "<failure/>", "<error/>", "<skipped/>")
    other = '<testcase classname="tests.unity.test_a" time="9"/>'
    cases = "".join(case.format(outcome) for outcome in outcomes) + other
    report.write_text(f"<testsuites><testsuite>{cases}</testsuite></testsuites>")
    assert count(report, "unit") == Row("unit", 1, 2, 1, 2.0, "ok")
