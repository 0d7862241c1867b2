"""A machine leaves the cluster in the middle of a run, and another machine joins."""

import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from ray._raylet import GcsClient
from ray.cluster_utils import Cluster
from ray.core.generated.autoscaler_pb2 import DrainNodeReason

from cluster.training import launch as train
from skiprec.config.run import RunConfig
from tests.testkit.faults import hurry, note_fault, slow_worker
from tests.testkit.nodes import NODE, two_nodes
from tests.testkit.runs import (
    build_smoke_data,
    last_weights,
    messages,
    metric,
    smoke_config,
    starts,
    train_here,
)

pytestmark = pytest.mark.slow
SETTINGS = (
    # Over 200 steps, sums in another order grow: into other decisions of a policy, and with Adam,
    # whose first steps are signs, into other losses at the smoke run's rate. Here is neither; 1e-5
    # tells one batch from another all the same.
    "policy={}",
    "training.execution=dense",
    "training.learning_rate=1e-6",
    "training.epochs=19.9",
    "training.checkpoint_every_steps=20",
    "training.validate_every_steps=1000",
    "model.num_blocks=8",
    "cluster.num_workers=2",
    "cluster.zero_stage=1",
)
ELASTIC = ("cluster.min_workers=1", "cluster.resize_check_s=3")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_smoke_data(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory, data: Path) -> RunConfig:
    alone = ("training.engine=torch", "cluster.num_workers=1", "cluster.zero_stage=0")
    config = smoke_config(tmp_path_factory.mktemp("unbroken"), data, *SETTINGS, *alone)
    train_here(config)
    return config


def assert_nothing_was_lost(config: RunConfig, unbroken: RunConfig) -> None:
    assert metric(config, "train/loss") == pytest.approx(metric(unbroken, "train/loss"), rel=1e-5)
    there, here = last_weights(unbroken), last_weights(config)
    apart = max(float((there[name] - here[name]).abs().max()) for name in there)
    assert apart < 1e-6, "each weight may move by 2e-4 in all"


def test_a_lost_node_shrinks_an_elastic_run_and_a_new_one_grows_it(
    tmp_path: Path, data: Path, unbroken: RunConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = smoke_config(tmp_path, data, *SETTINGS, *ELASTIC)
    monkeypatch.setattr(train, "ray_train_worker", slow_worker)
    with two_nodes() as (cluster, second), ThreadPoolExecutor(1) as pool:
        run = pool.submit(train.launch_training, config)
        wait_for(lambda: steps_of(config) > 25, run)
        cluster.remove_node(second)
        lost_at = time.time()
        wait_for(lambda: len(starts(config)) == 2, run)
        seen = steps_of(config)
        wait_for(lambda: steps_of(config) > seen + 5, run)
        cluster.add_node(**NODE)
        wait_for(lambda: len(starts(config)) == 3, run)
        hurry(config)
        run.result(200)
    assert [start["world_size"] for start in starts(config)] == [2, 1, 2]
    assert_nothing_was_lost(config, unbroken)
    recovery_s = starts(config)[1]["time"] - lost_at
    assert recovery_s < 60
    (message,) = messages(config)
    note_fault("a node is taken away (2 -> 1 -> 2)", "nothing", recovery_s, message)


def test_an_announced_departure_saves_a_checkpoint_first(
    tmp_path: Path, data: Path, unbroken: RunConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    rare = "training.checkpoint_every_steps=1000"
    config = smoke_config(tmp_path, data, *SETTINGS, *ELASTIC, rare)
    monkeypatch.setattr(train, "ray_train_worker", slow_worker)
    with two_nodes() as (cluster, second), ThreadPoolExecutor(1) as pool:
        run = pool.submit(train.launch_training, config)
        wait_for(lambda: steps_of(config) > 25, run)
        leaves_at = announce_departure(cluster, second, in_s=10)
        wait_for(lambda: len(starts(config)) == 2, run)
        cluster.remove_node(second)
        hurry(config)
        run.result(200)
    first, second_start = starts(config)
    assert [first["world_size"], second_start["world_size"]] == [2, 1]
    step = int(second_start["message"].split()[3])
    assert step > 0, "the checkpoint that the announcement asked for is the only one"
    assert_nothing_was_lost(config, unbroken)
    events = (config.folder / "events-rank0.jsonl").read_text()
    assert events.count("saving: 1 machine(s) will leave") == 1
    recovery_s = second_start["time"] - leaves_at
    assert recovery_s < 60
    note_fault("preemption", "nothing", recovery_s, "saving: 1 machine(s) will leave")


def announce_departure(cluster: Cluster, node: Any, in_s: float) -> float:
    """What a cloud's notice of a spot machine becomes in Ray; returns when that time is up."""
    leaves_at = time.time() + in_s
    accepted, why_not = GcsClient(address=cluster.address).drain_node(
        node.node_id,
        DrainNodeReason.Value("DRAIN_NODE_REASON_PREEMPTION"),
        "a test",
        int(leaves_at * 1000),
    )
    assert accepted, why_not
    return leaves_at


def steps_of(config: RunConfig) -> int:
    there = (config.folder / "metrics.jsonl").exists()
    return len(metric(config, "train/loss")) if there else 0


def wait_for(condition: Callable[[], bool], run: Future[Any], timeout_s: float = 120) -> None:
    """Until it is true; a run that has ended meanwhile fails the test with its error."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert not run.done(), run.result()
        assert time.monotonic() < deadline
        time.sleep(0.2)
