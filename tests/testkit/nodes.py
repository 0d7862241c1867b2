"""Two real Ray nodes of one CPU each, on this machine."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import ray
from ray.cluster_utils import Cluster

NODE = {"num_cpus": 1, "object_store_memory": 100 * 2**20}


@contextmanager
def two_nodes(**head: Any) -> Iterator[tuple[Cluster, Any]]:
    """The cluster, to which this process is connected, and its second node."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_worker_niceness", "0")
        cluster = Cluster()
        cluster.add_node(**NODE | {"include_dashboard": False} | head)
        second = cluster.add_node(**NODE)
        ray.init(address=cluster.address, log_to_driver=False)
        cluster.wait_for_nodes()
        try:
            yield cluster, second
        finally:
            ray.shutdown()
            cluster.shutdown()
