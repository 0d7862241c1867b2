"""Sweeps on a real Ray: stopped trials, the Pareto front, copies of PBT and published results."""

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import ray
from ray.tune.schedulers import FIFOScheduler

from cluster.machine.session import ray_session
from cluster.sweeps.results import read_trials
from cluster.sweeps.search import run_sweep
from cluster.sweeps.sweep import SweepConfig
from cluster.training.launch import launch_training
from skiprec.config.files import apply_overrides, load_config, read_tree
from tests.testkit.runs import SMOKE, build_smoke_data, last_weights, metric, same_weights

pytestmark = pytest.mark.slow
SPACE = {
    "training.learning_rate": {"low": 1e-3, "high": 1e-2, "log": True},
    "policy.target_keep_frac": {"low": 0.2, "high": 0.8},
}
STEP_ROWS = 64
REPORT_STEPS = 10
# Trials that train in their own process, without workers of Ray Train, start sooner.
HERE = ("cluster.num_workers=0", "training.engine=torch")
SHORT_EVALUATION = (
    "evaluation.num_workers=0",
    "evaluation.timing_batches=[1]",
    "evaluation.timing_repeats=3",
)


@pytest.fixture(scope="module", autouse=True)
def local_ray() -> Iterator[None]:
    """One Ray of two CPUs for all sweeps of this module; it has a dashboard, as a sweep's own."""
    with ray_session(num_cpus=2, with_dashboard=True):
        yield


def tree(root: Path, *overrides: str) -> dict[str, Any]:
    places = (f'root="{root}"', f'data.path="{root}/data"')
    return apply_overrides(read_tree(SMOKE), [*places, *SHORT_EVALUATION, *overrides])


def sweep(steps: int = 20, **options: Any) -> SweepConfig:
    budget = {"max_samples": steps * STEP_ROWS, "report_samples": REPORT_STEPS * STEP_ROWS}
    return SweepConfig.model_validate(
        {"name": "s", "space": SPACE, "num_trials": 3, **budget, **options}
    )


def assert_all_cpus_are_free() -> None:
    deadline = time.monotonic() + 20
    while ray.available_resources().get("CPU", 0) < 2:
        assert time.monotonic() < deadline, ray.available_resources()
        time.sleep(0.2)


class StopsTheFirst(FIFOScheduler):
    """ASHA's decision depends on which trial reports first; this one's does not."""

    def on_trial_result(self, controller: Any, trial: Any, result: dict[str, Any]) -> str:
        return self.CONTINUE if int(trial.trial_id[-1]) else self.STOP


def test_a_stopped_trial_frees_its_cpus_and_the_best_one_can_be_trained_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build_smoke_data(tmp_path)
    monkeypatch.setattr("cluster.sweeps.search._scheduler", lambda *_: StopsTheFirst())
    asha = sweep(num_trials=2, grace_samples=REPORT_STEPS * STEP_ROWS, steps=40)
    folder = run_sweep(asha, {"gumbel": tree(tmp_path)}, "a command")
    assert_all_cpus_are_free()
    again = load_config(folder / "best.toml").model_copy(update={"name": "again"})
    launch_training(again)
    trials = [json.loads(line) for line in (folder / "trials.jsonl").read_text().splitlines()]
    assert len(trials) == 2
    assert not any(row["failed"] for row in trials)
    stopped = [row for row in trials if not row["complete"]]
    assert [row["trial"] for row in stopped] == ["s-00000"]
    assert all(row["samples"] < asha.max_samples for row in stopped)
    complete = [row for row in trials if row["complete"]]
    assert all(row["samples"] == asha.max_samples for row in complete)

    best = load_config(folder / "best.toml")
    assert best.name == "s-best"
    for key, value in complete[0]["settings"].items():
        section, name = key.split(".")
        assert getattr(getattr(best, section), name) == value
    table = (folder / "table.md").read_text()
    assert "a command" in table
    assert f"| {complete[0]['trial']} * |" in table
    assert (folder / "pareto.png").stat().st_size > 5_000
    assert len({path.parent for path in (folder / "tensorboard").rglob("events.*")}) == 2
    assert (Path(best.root) / complete[0]["run"] / "report.md").exists()
    # And the best configuration is what that trial was: trained again, it is the same network.
    trial = best.model_copy(update={"name": complete[0]["run"]})
    assert same_weights(last_weights(again), last_weights(trial))


def test_optuna_finds_a_front_of_two_objectives_and_times_it(tmp_path: Path) -> None:
    build_smoke_data(tmp_path)
    rl = apply_overrides(
        tree(tmp_path, *HERE),
        ["policy={}", 'policy.kind="reinforce"', "training.execution=gathered"],
    )
    two = sweep(
        searcher="optuna",
        scheduler="none",
        objectives=["mrr@20", "flops_speedup"],
        num_trials=4,
        space={"training.learning_rate": SPACE["training.learning_rate"]},
        space_of={"gumbel": {"policy.target_keep_frac": [0.2, 0.8]}},
    )
    folder = run_sweep(two, {"gumbel": tree(tmp_path, *HERE), "reinforce": rl}, "a command")
    assert_all_cpus_are_free()
    trials = read_trials(folder)
    assert all(row["complete"] for row in trials)
    assert {row["kind"] for row in trials} <= {"gumbel", "reinforce"}
    text = (folder / "table.md").read_text()
    front = [row for row in trials if f"| {row['trial']} * |" in text]
    for row in front:
        report = json.loads((tmp_path / row["run"] / "report.json").read_text())
        served = next(found for found in report["rows"] if found["name"] == "skiprec")
        assert served["speedup_end_to_end"] is not None
    for row in trials:
        beaten = any(
            other["mrr@20"] >= row["mrr@20"]
            and other["flops_speedup"] >= row["flops_speedup"]
            and (other["mrr@20"], other["flops_speedup"]) != (row["mrr@20"], row["flops_speedup"])
            for other in trials
        )
        assert not (beaten and row in front)


def test_pbt_copies_the_better_trial_and_loses_no_sample(tmp_path: Path) -> None:
    build_smoke_data(tmp_path)
    steps = 40
    pbt = sweep(
        scheduler="pbt",
        num_trials=2,
        steps=steps,
        perturb_samples=REPORT_STEPS * STEP_ROWS,
        space={"training.learning_rate": {"low": 1e-5, "high": 1e-2, "log": True}},
    )
    folder = run_sweep(pbt, {"gumbel": tree(tmp_path, *HERE)}, "a command")
    assert_all_cpus_are_free()
    trials = read_trials(folder)
    assert [row["complete"] for row in trials] == [True, True]
    copies = [row for row in trials if "-from-" in row["run"]]
    assert copies, [row["run"] for row in trials]
    for row in trials:
        config = load_config(SMOKE, (f"root={tmp_path}", f"name={row['run']}"))
        lines = (config.folder / "metrics.jsonl").read_text().splitlines()
        progress = [found["step"] for found in map(json.loads, lines) if "train/loss" in found]
        assert progress == sorted(set(progress))
        assert progress[-1] == steps
    copied = copies[0]["run"]
    step = int(copied.rpartition("-")[2])
    rates = metric(load_config(SMOKE, (f"root={tmp_path}", f"name={copied}")), "lr/backbone")
    assert rates[-1] == pytest.approx(copies[0]["settings"]["training.learning_rate"])
    assert 0 < step < steps
