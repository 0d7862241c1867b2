"""Training, evaluation and sweeps across two real Ray nodes of one CPU each."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster.evaluation.evaluate import evaluate_run
from cluster.sweeps.results import read_trials
from cluster.sweeps.search import run_sweep
from cluster.sweeps.sweep import SweepConfig
from cluster.training import launch as train
from skiprec.config.files import apply_overrides, load_config, read_tree
from tests.testkit.nodes import two_nodes
from tests.testkit.runs import SMOKE, build_smoke_data, smoke_config, starts

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", autouse=True)
def cluster() -> Iterator[None]:
    with two_nodes():
        yield


def test_a_run_trains_and_is_evaluated_across_both(tmp_path: Path) -> None:
    data = build_smoke_data(tmp_path)
    config = smoke_config(tmp_path, data, "cluster.num_workers=2", "cluster.zero_stage=3")
    train.launch_training(config)
    nodes = {start["node"] for rank in (0, 1) for start in starts(config, rank)}
    assert len(nodes) == 2
    settings = config.evaluation.model_copy(update={"num_workers": 2, "timing_batches": ()})
    evaluated = config.model_copy(update={"evaluation": settings})
    report = json.loads(evaluate_run(evaluated, config.folder, "a test").read_text())
    assert report["conditions"]["rows"] > 0


def test_a_sweep_has_a_trial_on_each(tmp_path: Path) -> None:
    data = build_smoke_data(tmp_path)
    sweep = SweepConfig.model_validate(
        {
            "name": "s",
            "space": {"policy.target_keep_frac": {"low": 0.2, "high": 0.8}},
            "scheduler": "none",
            "num_trials": 2,
            "max_samples": 40 * 64,
            "report_samples": 20 * 64,
        }
    )
    places = (f'root="{tmp_path}"', f'data.path="{data}"')
    short = ("evaluation.num_workers=0", "evaluation.timing_batches=[]")
    tree = apply_overrides(read_tree(SMOKE), (*places, *short))
    folder = run_sweep(sweep, {"gumbel": tree}, "a command")
    assert [row["complete"] for row in read_trials(folder)] == [True, True]
    runs = [load_config(SMOKE, (f"root={tmp_path}", f"name=s-0000{i}")) for i in (0, 1)]
    assert len({start["node"] for run in runs for start in starts(run)}) == 2
