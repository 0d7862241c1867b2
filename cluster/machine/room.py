"""Checks whether Ray's machines have room for the workers of a job, and waits for more machines."""

from typing import Any

import ray
from ray.util.placement_group import placement_group, remove_placement_group

from cluster.machine.session import is_own_ray
from skiprec.config.cluster import ClusterConfig
from skiprec.terminal import moving_line, say

Node = dict[str, Any]  # one machine, as `ray.nodes()` describes it


def worker_resources(cluster: ClusterConfig) -> dict[str, float]:
    """The resources that one worker asks Ray for: name and amount."""
    gpu = {"GPU": 1.0} if cluster.use_gpu else {}
    return {"CPU": float(cluster.threads_per_worker)} | gpu | cluster.resources


def places(worker: dict[str, float], nodes: list[Node]) -> int:
    """Number of workers that fit on the machines if nothing else runs there.

    Each worker needs all of its resources on one machine.
    """
    return sum(
        min(int(node["Resources"].get(name, 0) // amount) for name, amount in worker.items())
        for node in nodes
        if node["Alive"]
    )


def wait_for_room(
    name: str, worker: dict[str, float], num: int, wanted: str, timeout_s: float
) -> None:
    """Returns when the cluster has room for `num` workers.

    A local Ray never gets more machines, so it fails at once. Any other cluster may get machines
    from an autoscaler or by hand, so we state our demand and wait.

    Args:
        name: the name of the waiting run, for the printed line.
        worker: the resources of one worker.
        wanted: a name for the workers, with the keys that set their number.
        timeout_s: seconds to wait.

    Raises:
        ValueError: there is no room, on a local Ray or after the wait.
    """
    if places(worker, _nodes()) >= num:
        return
    if is_own_ray():
        raise ValueError(_no_room_message(worker, num, wanted, _nodes()))
    say(
        f"[{name}] waiting up to {timeout_s:.0f} s (cluster.room_timeout_s) for machines: "
        f"{_no_room_message(worker, num, wanted, _nodes())}"
    )
    group = placement_group([worker] * num)  # an autoscaler sees this demand
    try:
        with moving_line(name, f"waiting up to {timeout_s:.0f} s for machines"):
            if not group.wait(timeout_s):
                raise ValueError(_no_room_message(worker, num, wanted, _nodes()))
    finally:
        remove_placement_group(group)


def _no_room_message(worker: dict[str, float], num: int, wanted: str, nodes: list[Node]) -> str:
    """The error message: the demand, the resources of the machines, and the remedy."""
    alive = [node["Resources"] for node in nodes if node["Alive"]]
    machines = ", ".join(_words({key: offered.get(key, 0) for key in worker}) for offered in alive)
    total = _words({key: amount * num for key, amount in worker.items()})
    return (
        f"{wanted}: {num} of {_words(worker)} each, each within one machine, {total} in all; Ray "
        f"has {len(alive)} machine(s) with {machines}, room for {places(worker, nodes)}. Ask for "
        "less, or add machines"
    )


def _words(resources: dict[str, float]) -> str:
    return " and ".join(f"{amount:g} {name}" for name, amount in resources.items())


def _nodes() -> list[Node]:
    nodes: list[Node] = ray.nodes()  # type: ignore[no-untyped-call]
    return nodes
