"""Training in the job's own process: the same run, without Ray."""

from pathlib import Path

import pytest
import ray

from cluster.run_folder import RunAliveError, lease
from cluster.train import launch_training
from tests.testkit.runs import (
    best_weights,
    build_smoke_data,
    same_weights,
    smoke_config,
    train_here,
)

HERE = ("training.engine=torch", "cluster.num_workers=0")


def test_without_workers_the_own_process_trains_the_same_network(tmp_path: Path) -> None:
    data = build_smoke_data(tmp_path)
    config = smoke_config(tmp_path / "here", data, *HERE)
    result = launch_training(config)
    assert not ray.is_initialized()
    reference = smoke_config(tmp_path / "reference", data, "training.engine=torch")
    assert result["steps"] == train_here(reference).step
    assert same_weights(best_weights(config), best_weights(reference))
    assert launch_training(config) == result  # finished: only reported


def test_without_workers_a_run_that_is_held_is_not_touched(tmp_path: Path) -> None:
    config = smoke_config(tmp_path, build_smoke_data(tmp_path), *HERE)
    with lease(config), pytest.raises(RunAliveError, match="is alive"):
        launch_training(config)
    assert not (config.folder / "config.json").exists()
