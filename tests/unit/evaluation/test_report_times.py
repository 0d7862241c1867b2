"""What a report says of warm times, and of the agreement of the timed executor with PyTorch."""

import pytest

from skiprec.evaluation.measure.native_timing import Agreement
from skiprec.evaluation.report.make import Measured, make_report
from skiprec.evaluation.report.text import report_markdown
from tests.unit.evaluation.test_report import (
    CONDITIONS,
    COST,
    CURVE,
    TIMES,
    make_table,
    report_of,
    varied_decisions,
)


def test_warm_times_stand_beside_the_cold_ones() -> None:
    report = report_of(varied_decisions())
    for timing in report["timing"].values():
        cold, warm = (
            numbers["speedups"]["skiprec"]["speedup_end_to_end"]
            for numbers in (timing, timing["warm"])
        )
        assert warm == pytest.approx(1.6 * cold)
        assert timing["warm"]["amdahl"]["measured"] == pytest.approx(warm)
    text = report_markdown(report, [])
    assert text.count("Warm: end to end") == len(TIMES)
    assert text.count("Amdahl") == 2 * len(TIMES)


@pytest.mark.parametrize(
    ("agreement", "is_close"),
    [
        (Agreement(5000, 5, 1e-6, 0), True),
        (Agreement(5000, 6, 1e-6, 0), False),
        (Agreement(5000, 1, 2e-5, 3), False),
    ],
)
def test_the_timed_executor_is_compared_with_pytorch(agreement: Agreement, is_close: bool) -> None:
    table = make_table(varied_decisions())
    measured = Measured(table, TIMES, COST, CURVE, agreement=agreement)
    report = make_report(measured, dict(CONDITIONS))
    warned = any("native executor and PyTorch" in text for text in report["statements"])
    assert warned != is_close
    text = report_markdown(report, [])
    assert f"of 5,000 lists {agreement.lists_differ} differ" in text
    assert f"of the decisions {agreement.decisions_differ}." in text
