"""Checks before a sweep starts, decisions of ASHA, and the Pareto front of trials."""

from pathlib import Path
from typing import Any

import pytest
from ray.tune.experiment import Trial

from cluster.sweeps.results import front_of
from cluster.sweeps.search import _scheduler, run_sweep
from cluster.sweeps.sweep import SweepConfig
from skiprec.config.files import apply_overrides, read_tree
from tests.testkit.runs import SMOKE, build_smoke_data


def smoke_tree(root: Path, *overrides: str) -> dict[str, Any]:
    places = [f'root="{root}"', f'data.path="{root}/data"']
    return apply_overrides(read_tree(SMOKE), [*places, *overrides])


def sweep(**options: Any) -> SweepConfig:
    common = {"name": "s", "num_trials": 2, "max_samples": 640, "report_samples": 128}
    return SweepConfig.model_validate(common | options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"scheduler": "none", "space": {"policy.widht": [8]}}, "unknown key 'policy.widht'"),
        ({"scheduler": "none", "space": {"init_from": ["nobody"]}}, "not a finished run"),
        (  # Both ends are whole numbers, but values between them are not.
            {"scheduler": "none", "space": {"training.warmup_steps": {"low": 0, "high": 10}}},
            "training.warmup_steps",
        ),
        (
            {"scheduler": "pbt", "perturb_samples": 128, "space": {"policy.width": [8, 16]}},
            "the space changes a network's weights",
        ),
        (
            {"scheduler": "pbt", "perturb_samples": 128, "space": {"training.seed": [0, 1]}},
            "the space changes training.seed",
        ),
    ],
)
def test_a_trial_that_could_not_run_is_found_before_the_first(
    tmp_path: Path, options: dict[str, Any], message: str
) -> None:
    build_smoke_data(tmp_path)
    with pytest.raises(ValueError, match=message):
        run_sweep(sweep(**options), {"gumbel": smoke_tree(tmp_path)}, "test")


def test_a_sweep_takes_no_names_of_other_runs(tmp_path: Path) -> None:
    build_smoke_data(tmp_path)
    trees = {"gumbel": smoke_tree(tmp_path)}
    (tmp_path / "s-2").mkdir()  # the folder of another sweep
    (tmp_path / "s-00000").mkdir()
    options = {"scheduler": "none", "space": {"policy.width": [8]}}
    with pytest.raises(ValueError, match=r"like 's-00000'.* choose another name for the sweep"):
        run_sweep(sweep(**options), trees, "test")


def test_asha_stops_who_is_behind_at_a_rung_and_budgets_are_in_samples() -> None:
    asha = sweep(grace_samples=128, reduction_factor=2, space={"policy.width": [8]})
    scheduler = _scheduler(asha, asha.dimensions(["gumbel"]))
    assert scheduler.set_search_properties("mrr@20", "max")
    trials = [Trial("unused", stub=True) for _ in range(3)]
    for trial in trials:
        scheduler.on_trial_add(None, trial)

    def decision(trial: Trial, samples: int, mrr: float) -> str:
        return scheduler.on_trial_result(None, trial, {"samples": samples, "mrr@20": mrr})

    first, better, worse = trials
    assert decision(first, 128, 0.2) == "CONTINUE"
    assert decision(better, 128, 0.3) == "CONTINUE"
    assert decision(worse, 64, 0.1) == "CONTINUE", "before its grace is over"
    assert decision(worse, 128, 0.1) == "STOP"
    assert decision(first, 640, 0.2) == "CONTINUE", "a run ends by itself, with its result"


def test_the_front_is_what_no_other_trial_beats() -> None:
    points = {"a": (0.10, 1.0), "b": (0.09, 2.0), "c": (0.08, 1.5), "d": (0.07, 3.0)}
    rows = [
        {"trial": name, "complete": True, "mrr@20": mrr, "flops_speedup": speedup}
        for name, (mrr, speedup) in points.items()
    ]
    rows.append({"trial": "e", "complete": False, "mrr@20": 0.2, "flops_speedup": 9.0})
    rows.append(
        {"trial": "f", "complete": True, "mrr@20": 0.09, "flops_speedup": 2.0}
    )  # equal to b
    assert [row["trial"] for row in front_of(rows)] == ["a", "b", "d"]
