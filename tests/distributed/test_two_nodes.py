"""Two real Ray nodes of one CPU each: training and evaluation across both."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import ray
from ray.cluster_utils import Cluster

from cluster import train
from cluster.evaluate import evaluate_run
from skiprec.config import RunConfig
from tests.testkit.runs import build_smoke_data, smoke_config

pytestmark = pytest.mark.slow


@pytest.fixture
def two_nodes(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    monkeypatch.setenv("RAY_worker_niceness", "0")
    cluster = Cluster()
    node = {"num_cpus": 1, "object_store_memory": 100 * 2**20}
    cluster.add_node(**node, include_dashboard=False)
    second = cluster.add_node(**node)
    ray.init(address=cluster.address, log_to_driver=False)
    cluster.wait_for_nodes()
    yield cluster, second, node
    ray.shutdown()
    cluster.shutdown()


def starts(config: RunConfig, rank: int = 0) -> list[dict[str, Any]]:
    path = config.folder / f"events-rank{rank}.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    return [row for row in map(json.loads, lines) if "training from step" in row["message"]]


def test_a_run_trains_and_is_evaluated_across_both(two_nodes: Any, tmp_path: Path) -> None:
    data = build_smoke_data(tmp_path)
    config = smoke_config(tmp_path, data, "cluster.num_workers=2", "cluster.zero_stage=3")
    train.launch_training(config)
    nodes = {start["node"] for rank in (0, 1) for start in starts(config, rank)}
    assert len(nodes) == 2
    settings = config.evaluation.model_copy(update={"num_workers": 2, "timing_batches": ()})
    evaluated = config.model_copy(update={"evaluation": settings})
    report = json.loads(evaluate_run(evaluated, config.folder, "a test").read_text())
    assert report["conditions"]["rows"] > 0
