"""Whether Ray's machines have room for what a job asks for; each worker is within one machine."""

from typing import Any

import ray
from ray.util.placement_group import placement_group, remove_placement_group

from cluster.machine.session import is_own_ray
from skiprec.config.cluster import ClusterConfig
from skiprec.terminal import moving_line, say

Node = dict[str, Any]  # as `ray.nodes()` describes one


def worker_resources(cluster: ClusterConfig) -> dict[str, float]:
    """What one worker asks Ray for."""
    gpu = {"GPU": 1.0} if cluster.use_gpu else {}
    return {"CPU": float(cluster.threads_per_worker)} | gpu | cluster.resources


def places(worker: dict[str, float], nodes: list[Node]) -> int:
    """How many workers of these resources the machines have room for, others' work not counted."""
    return sum(
        min(int(node["Resources"].get(name, 0) // amount) for name, amount in worker.items())
        for node in nodes
        if node["Alive"]
    )


def wait_for_room(
    name: str, worker: dict[str, float], num: int, wanted: str, patience_s: float
) -> None:
    """Returns when there is room for `num` workers.

    A local Ray will never have more. Any other one may get more machines, from an autoscaler
    or by hand: it is asked for them, and waited for.

    Args:
        name: of the run that waits, for what is printed.
        wanted: what to call the workers, with the keys that say how many.

    Raises:
        ValueError: there is no room, and will be none.
    """
    if places(worker, _nodes()) >= num:
        return
    if is_own_ray():
        raise ValueError(no_room(worker, num, wanted, _nodes()))
    say(
        f"[{name}] waiting up to {patience_s:.0f} s (cluster.room_timeout_s) for machines: "
        f"{no_room(worker, num, wanted, _nodes())}"
    )
    group = placement_group([worker] * num)  # a demand that autoscalers see
    try:
        with moving_line(name, f"waiting up to {patience_s:.0f} s for machines"):
            if not group.wait(patience_s):
                raise ValueError(no_room(worker, num, wanted, _nodes()))
    finally:
        remove_placement_group(group)


def no_room(worker: dict[str, float], num: int, wanted: str, nodes: list[Node]) -> str:
    """The arithmetic, in words."""
    alive = [node["Resources"] for node in nodes if node["Alive"]]
    machines = ", ".join(_words({key: found.get(key, 0) for key in worker}) for found in alive)
    total = _words({key: amount * num for key, amount in worker.items()})
    return (
        f"{wanted}: {num} of {_words(worker)} each, each within one machine, {total} in all; Ray "
        f"has {len(alive)} machine(s) with {machines}, room for {places(worker, nodes)}. Ask for "
        "less, or add machines"
    )


def _words(resources: dict[str, float]) -> str:
    return " and ".join(f"{amount:g} {name}" for name, amount in resources.items())


def _nodes() -> list[Node]:
    found: list[Node] = ray.nodes()  # type: ignore[no-untyped-call]
    return found
