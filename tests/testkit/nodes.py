"""Real Ray clusters on this machine: two nodes of one CPU, or a head that gets a second node."""

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import ray
from ray.cluster_utils import Cluster

from tests.testkit.jobs import kill_session

NODE = {"num_cpus": 1, "object_store_memory": 100 * 2**20}


@contextmanager
def two_nodes(**head: Any) -> Iterator[tuple[Cluster, Any]]:
    """Connects this process to a cluster of two nodes; yields the cluster and its second node."""
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


# The configuration of Ray's provider for tests of its autoscaler, whose machines are processes.
GROWING = {
    "cluster_name": "growing",
    "max_workers": 1,
    "upscaling_speed": 20.0,
    "idle_timeout_minutes": 10,
    "head_node_type": "ray.head.default",  # the provider's name for it
    "auth": {},
    "file_mounts": {},
    "cluster_synced_files": [],
    "initialization_commands": [],
    "setup_commands": [],
    "head_setup_commands": [],
    "worker_setup_commands": [],
    "head_start_ray_commands": [],
    "worker_start_ray_commands": [],
    "available_node_types": {
        "ray.head.default": {"resources": {"CPU": 0}, "node_config": {}, "max_workers": 0},
        "worker": {"resources": {"CPU": 2}, "node_config": {}, "min_workers": 0, "max_workers": 1},
    },
}


@contextmanager
def growing_cluster(folder: Path) -> Iterator[None]:
    """Runs a head without CPUs, whose autoscaler may add one machine of two CPUs.

    Jobs inside the block find the head by RAY_ADDRESS and its token in a separate home folder.
    """
    program = str(Path(sys.executable).parent / "ray")
    file, log, home = folder / "growing.json", folder / "head.log", folder / "home"
    home.mkdir()
    port, agent = free_port(), free_port()
    address = f"{ray.util.get_node_ip_address()}:{port}"
    provider = {"type": "fake_multinode", "gcs_address": address}
    file.write_text(json.dumps(GROWING | {"provider": provider}))
    with pytest.MonkeyPatch.context() as patch, log.open("wb") as output:
        for key, value in {"HOME": str(home), "RAY_AUTH_MODE": "token"}.items():
            patch.setenv(key, value)
        patch.setenv("RAY_worker_niceness", "0")
        subprocess.run([program, "get-auth-token", "--generate"], check=True, stdout=output)
        fake = {"AUTOSCALER_UPDATE_INTERVAL_S": "1", "RAY_FAKE_CLUSTER": "1"}
        head = subprocess.Popen(
            [
                *(program, "start", "--head", "--block", "--num-cpus=0", f"--port={port}"),
                *("--include-dashboard=false", f"--dashboard-agent-listen-port={agent}"),
                *("--object-store-memory=100000000", f"--autoscaling-config={file}"),
            ],
            env=os.environ | fake,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        patch.setenv("RAY_ADDRESS", address)
        try:
            deadline = time.monotonic() + 60
            while b"Ray runtime started" not in log.read_bytes():
                assert time.monotonic() < deadline, log.read_text()
                time.sleep(0.5)
            yield
        finally:
            kill_session(head)


def free_port() -> int:
    """The number of a port on which nothing listens now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
