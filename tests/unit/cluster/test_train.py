"""Training in the job's own process, without Ray, gives the same network."""

import threading
import time
from pathlib import Path

import pytest
import ray

from cluster.runs.folder import RunAliveError, lease, request_stop
from cluster.training.launch import RunStoppedError, launch_training
from tests.testkit.runs import (
    best_weights,
    build_smoke_data,
    last_weights,
    metric,
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
    assert launch_training(config) == result  # A finished run is not trained again.


def test_without_workers_a_run_that_is_held_is_not_touched(tmp_path: Path) -> None:
    config = smoke_config(tmp_path, build_smoke_data(tmp_path), *HERE)
    with lease(config), pytest.raises(RunAliveError, match="is alive"):
        launch_training(config)
    assert not (config.folder / "config.json").exists()


def test_a_stopped_run_goes_on_with_the_same_call_and_nothing_is_lost(tmp_path: Path) -> None:
    data = build_smoke_data(tmp_path)
    few_lines = ("training.log_every_steps=3", "training.epochs=20")
    whole, stopped = (smoke_config(tmp_path / name, data, *HERE, *few_lines) for name in "ab")
    launch_training(whole)
    metrics = stopped.folder / "metrics.jsonl"

    def stop_once_it_runs() -> None:
        while not metrics.exists() or not metrics.read_text():
            time.sleep(0.005)
        request_stop(stopped)

    thread = threading.Thread(target=stop_once_it_runs)
    thread.start()
    with pytest.raises(RunStoppedError, match=r"stopped at step \d+ of 202; the same command"):
        launch_training(stopped)
    thread.join()
    assert not (stopped.folder / "result.json").exists()
    assert launch_training(stopped)["steps"] == 202
    assert metric(stopped, "train/loss") == metric(whole, "train/loss")
    assert same_weights(last_weights(stopped), last_weights(whole))
