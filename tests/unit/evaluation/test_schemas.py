"""Reports have the shape of their schemas: no key more, no key less, JSON types exactly."""

import json
from typing import Any

import numpy as np
import pytest
from pydantic import TypeAdapter, ValidationError

from cluster.studies.schema import StudyResult
from cluster.studies.study import result_of_run
from cluster.sweeps.trial_rows import TrialLine, TrialRow
from skiprec.evaluation.headroom.report import headroom_report
from skiprec.evaluation.headroom.schema import HeadroomReport
from skiprec.evaluation.report.make import Measured, make_report
from skiprec.evaluation.report.schema import METRICS, Metrics, Report, interval_of, value_of
from skiprec.evaluation.report.table import per_user_table
from skiprec.ranking import METRIC_CUTS
from tests.testkit.repository import ROOT
from tests.unit.cluster.test_sweep_results import TEST, trial
from tests.unit.evaluation.test_headroom_report import two_blocks
from tests.unit.evaluation.test_report import (
    COST,
    CURVE,
    NUM_ROWS,
    TIMES,
    make_table,
    ranks_around,
    varied_decisions,
)

PUBLISHED = ROOT / "docs/benchmarks/studies/synthetic/gumbel_pre-s0.json"


def check(schema: Any, value: Any) -> None:
    TypeAdapter(schema).validate_json(json.dumps(value, allow_nan=False), strict=True)


@pytest.fixture(scope="module")
def conditions() -> dict[str, Any]:
    """The conditions that an evaluation gives to its report."""
    published = json.loads(PUBLISHED.read_text())["conditions"]
    return {key: published[key] for key in published if key not in ("batch", "warmup_rounds")}


def report_with_policy(conditions: dict[str, Any], is_timed: bool = True) -> dict[str, Any]:
    table = make_table(varied_decisions())
    return make_report(Measured(table, TIMES if is_timed else {}, COST, CURVE), dict(conditions))


def test_a_report_has_the_shape_of_its_schema(conditions: dict[str, Any]) -> None:
    check(Report, report_with_policy(conditions))
    check(Report, report_with_policy(conditions, is_timed=False))


def test_a_report_without_a_policy_has_the_shape_of_its_schema(conditions: dict[str, Any]) -> None:
    part = {
        "user": np.arange(NUM_ROWS, dtype=np.int32),
        "row": np.arange(NUM_ROWS),
        "rank_popularity": ranks_around(300, seed=2),
        "rank_full_backbone": ranks_around(4, seed=1),
    }
    table = per_user_table([part], None, COST, np.array([0]), None)
    check(Report, make_report(Measured(table, {}, COST), dict(conditions)))


@pytest.mark.parametrize(
    "place", [(), ("rows", 0), ("policy",), ("frontier", "served"), ("flops",)]
)
def test_another_key_or_a_missing_one_is_an_error(
    conditions: dict[str, Any], place: tuple[str | int, ...]
) -> None:
    """The control of the tests above."""
    report = report_with_policy(conditions)
    record: Any = report
    for step in place:
        record = record[step]
    record["unknown"] = 1.0
    with pytest.raises(ValidationError, match="Extra inputs are not permitted"):
        check(Report, report)
    del record["unknown"]
    record.pop(next(iter(record)))
    with pytest.raises(ValidationError, match="Field required"):
        check(Report, report)


def test_the_metrics_of_the_schema_are_those_of_the_ranking() -> None:
    assert METRICS == tuple(METRIC_CUTS)
    numbers = {f"{metric}{end}" for metric in METRIC_CUTS for end in ("", "_interval")}
    assert Metrics.__required_keys__ == numbers
    record = {"mrr@20": 0.5, "mrr@20_interval": (0.4, 0.6)}
    assert (value_of(record, "mrr@20"), interval_of(record, "mrr@20")) == (0.5, (0.4, 0.6))


def test_a_headroom_report_has_the_shape_of_its_schema() -> None:
    text = "name command backbone policy data split fit_split device commit config_hash written"
    numbers = "num_blocks width rows fit_rows nest_rows threads seconds"
    conditions = dict.fromkeys(text.split(), "x") | dict.fromkeys(numbers.split(), 1)
    conditions |= {"trained_to_skip": False, "reads_after": None, "versions": {"torch": "2"}}
    check(HeadroomReport, headroom_report((1, 0), two_blocks(), two_blocks(), conditions))


def test_what_a_study_keeps_has_the_shape_of_its_schema(conditions: dict[str, Any]) -> None:
    published = json.loads(PUBLISHED.read_text())
    keys = ("row", "label", "seed", "config", "earlier", "trained_by", "training")
    facts = {key: published[key] for key in keys}
    result = result_of_run(report_with_policy(conditions), facts)
    check(StudyResult, result)
    assert tuple(result)[-len(keys) :] == keys
    assert result["frontier"]["learned"][0].keys() == {
        *("kept_blocks", "setting", "mrr@20", "mrr@20_interval", "minus_frontier", "minus_hull")
    }


def test_trials_have_the_shape_of_their_schema() -> None:
    check(TrialRow, trial("s-0", run="s-0", test=TEST))
    check(TrialLine, trial("s-0", run="s-0") | dict.fromkeys(("samples", "mrr@20", "keep_frac")))
    with pytest.raises(ValidationError):
        check(TrialRow, trial("s-0", run="s-0") | {"mrr@20": None})
