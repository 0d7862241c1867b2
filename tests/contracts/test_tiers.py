"""The runner of the tiers cannot be green by running nothing."""

from pathlib import Path

import pytest

from tests import run_tiers
from tests.run_tiers import Row, close, count, find_tiers, judge, run_tier
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
        (1, 3, 2, "quick", "FAILED (pytest exit code 1)", 2),
        (2, 3, 0, "quick", "FAILED (pytest exit code 2)", 1),
        (-9, 3, 0, "slow", "FAILED (pytest exit code -9)", 1),
    ],
)
def test_a_tier_is_judged(
    code: int, passed: int, failed: int, which: str, result: str, counted: int
) -> None:
    assert judge(code, passed, failed, 0, which, 1.0) == (counted, 0, 1.0, result)


def test_a_tier_of_skipped_tests_has_run_none() -> None:
    assert judge(0, 0, 0, 7, "quick", 1.0)[3] == "FAILED: expected, but ran no test"


def test_a_tier_that_cannot_run_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_tiers, "CANNOT_RUN", {"gpu": lambda: "no GPU"})
    assert run_tier("gpu", "quick").result == "not run: no GPU"


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
    assert count(report) == (0, 0, 0), "a process that died left none"
    report.write_text(
        "<testsuites><testsuite><testcase/><testcase><failure/></testcase>"
        "<testcase><error/></testcase><testcase><skipped/></testcase></testsuite></testsuites>"
    )
    assert count(report) == (1, 2, 1)
