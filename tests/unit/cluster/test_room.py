"""Counting the workers that fit on machines, waiting for room, and the message without room."""

import re
from typing import Any

import pytest

from cluster.machine import room
from cluster.machine.room import places, wait_for_room, worker_resources
from skiprec.config.cluster import ClusterConfig


def node(cpus: int, gpus: int = 0, alive: bool = True, **more: float) -> dict[str, Any]:
    return {"Alive": alive, "Resources": {"CPU": float(cpus), "GPU": float(gpus), **more}}


@pytest.mark.parametrize(
    ("cluster", "nodes", "expected"),
    [
        ({}, [node(2)], 2),
        ({}, [], 0),
        ({"threads_per_worker": 3}, [node(4), node(4)], 2),  # a worker is within one machine
        ({"use_gpu": True}, [node(16, 2), node(8)], 2),
        ({"resources": {"fast_disk": 0.5}}, [node(16, fast_disk=1.0), node(16)], 2),
        ({}, [node(2), node(64, alive=False)], 2),
    ],
)
def test_places(cluster: dict[str, Any], nodes: list[dict[str, Any]], expected: int) -> None:
    assert places(worker_resources(ClusterConfig(**cluster)), nodes) == expected


class Group:
    """A fake placement group; the machines `arrives` join the cluster during the wait."""

    def __init__(self, machines: list[Any], arrives: list[Any]):
        self.machines, self.arrives, self.removed = machines, arrives, False

    def wait(self, seconds: float) -> bool:
        self.machines += self.arrives
        return bool(self.arrives)


@pytest.fixture
def machines(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    cluster = [node(3), node(2)]
    monkeypatch.setattr(room, "_nodes", lambda: cluster)
    monkeypatch.setattr(room, "is_own_ray", lambda: False)
    return cluster


WORKER = {"CPU": 2.0}
ARITHMETIC = (
    "workers (num): 3 of 2 CPU each, each within one machine, 6 CPU in all; Ray has 2 machine(s) "
    "with 3 CPU, 2 CPU, room for 2. Ask for less, or add machines"
)


def test_a_local_ray_refuses_at_once(machines: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "is_own_ray", lambda: True)
    wait_for_room("r", WORKER, 2, "workers (num)", 9.0)
    with pytest.raises(ValueError, match=re.escape(ARITHMETIC)):
        wait_for_room("r", WORKER, 3, "workers (num)", 9.0)


@pytest.mark.parametrize("arrives", [[], [node(2)]])
def test_a_cluster_is_asked_for_machines_and_waited_for(
    machines: list[Any],
    arrives: list[Any],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    asked: list[Any] = []
    group = Group(machines, arrives)
    monkeypatch.setattr(room, "placement_group", lambda bundles: asked.append(bundles) or group)
    monkeypatch.setattr(room, "remove_placement_group", lambda g: setattr(g, "removed", True))
    if arrives:
        wait_for_room("r", WORKER, 3, "workers (num)", 9.0)
    else:
        with pytest.raises(ValueError, match=re.escape(ARITHMETIC)):
            wait_for_room("r", WORKER, 3, "workers (num)", 9.0)
    assert asked == [[WORKER] * 3]
    assert group.removed
    printed = capsys.readouterr().out
    assert printed == f"[r] waiting up to 9 s (cluster.room_timeout_s) for machines: {ARITHMETIC}\n"
