"""Who computes an evaluation: actors of Ray, or the job's own process. The results are the same."""

from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext, suppress
from typing import Any, Protocol

import ray
from ray.exceptions import RayActorError

from cluster.machine.room import places, wait_for_room, worker_resources
from cluster.machine.session import ray_session
from skiprec.config.run import RunConfig
from skiprec.terminal import moving_line

PROGRESS_EVERY_S = 5.0


class Crew(Protocol):
    """Members of one kind, made from the same arguments."""

    def all(self, method: str, calls: list[tuple[Any, ...]], done: str) -> list[Any]:
        """The results of one method for each of these arguments, in their order.

        Args:
            done: a word for the line of progress.
        """
        ...

    def one(self, method: str, *arguments: Any) -> Any:
        """The result of a method of one member."""
        ...

    def __enter__(self) -> "Crew": ...

    def __exit__(self, *error: object) -> None: ...


def session_of(config: RunConfig) -> AbstractContextManager[None]:
    """A session of Ray, where an evaluation needs one."""
    return ray_session() if config.evaluation.num_workers else nullcontext()


def scoring_crew(config: RunConfig, kind: type, num_units: int, *arguments: Any) -> Crew:
    """As many members as `evaluation.num_workers` asks for; each takes every n-th unit."""
    num = min(config.evaluation.num_workers, num_units)
    if num == 0:
        return ThisProcess(config, kind, *arguments)
    return Actors(config, kind, num, _room_for(config, num), *arguments)


def timing_crew(config: RunConfig, kind: type, *arguments: Any) -> Crew:
    """One member, with nothing beside it."""
    if config.evaluation.num_workers == 0:
        return ThisProcess(config, kind, *arguments)
    # It takes all CPUs of a node, so that Ray starts nothing beside it, and waits for such a node.
    worker = _room_for(config, 1)
    able_nodes = [node for node in ray.nodes() if places(worker, [node])]  # type: ignore[no-untyped-call]
    worker["CPU"] = max(node["Resources"]["CPU"] for node in able_nodes)
    return Actors(config, kind, 1, worker, *arguments)


class ThisProcess:
    """One member, in the job's own process and without Ray, for example under a debugger."""

    def __init__(self, config: RunConfig, kind: type, *arguments: Any) -> None:
        self.name, self.member = config.name, kind(*arguments)

    def all(self, method: str, calls: list[tuple[Any, ...]], done: str) -> list[Any]:
        """See `Crew`."""
        results = (getattr(self.member, method)(*arguments) for arguments in calls)
        return _with_progress(self.name, "starting", results, done, len(calls))

    def one(self, method: str, *arguments: Any) -> Any:
        """See `Crew`."""
        return getattr(self.member, method)(*arguments)

    def __enter__(self) -> "ThisProcess":
        return self

    def __exit__(self, *error: object) -> None:
        pass


class Actors:
    """Actors of Ray; large arguments that all calls share are best put into Ray's store."""

    def __init__(
        self, config: RunConfig, kind: type, num: int, resources: dict[str, float], *arguments: Any
    ) -> None:
        self.name = config.name
        actor = remote_class(kind, resources)
        self.members = [actor.remote(*arguments) for _ in range(num)]

    def all(self, method: str, calls: list[tuple[Any, ...]], done: str) -> list[Any]:
        """See `Crew`. Call i goes to member i modulo their number."""
        pending = [
            getattr(self.members[index % len(self.members)], method).remote(*arguments)
            for index, arguments in enumerate(calls)
        ]
        results = map(ray.get, pending)
        return _with_progress(self.name, "starting workers", results, done, len(calls))

    def one(self, method: str, *arguments: Any) -> Any:
        """See `Crew`; of the first member."""
        return ray.get(getattr(self.members[0], method).remote(*arguments))

    def __enter__(self) -> "Actors":
        return self

    def __exit__(self, *error: object) -> None:
        """Ends the actors; returns when their processes are gone."""
        for member in self.members:
            ray.kill(member)
        for member in self.members:
            with suppress(RayActorError):
                ray.get(member.__ray_ready__.options(max_task_retries=0).remote())


def remote_class(kind: type, resources: dict[str, float]) -> Any:
    """A class of actors that ask Ray for these resources."""
    more = {name: amount for name, amount in resources.items() if name not in ("CPU", "GPU")}
    # Work units are pure, so a lost actor is started again and computes the same results.
    return ray.remote(
        num_cpus=resources["CPU"],
        num_gpus=resources.get("GPU", 0),
        resources=more,
        max_restarts=2,
        max_task_retries=2,
    )(kind)


def _with_progress(
    name: str, first: str, results: Iterable[Any], done: str, total: int
) -> list[Any]:
    """The results; shows how many there are while they come."""
    collected: list[Any] = []
    with moving_line(name, first, plain_every_s=PROGRESS_EVERY_S) as line:
        for result in results:
            collected.append(result)
            line.show(f"{done} {len(collected)} of {total} units", len(collected), total)
    return collected


def _room_for(config: RunConfig, num_workers: int) -> dict[str, float]:
    """The resources of one worker; waits until there is room for all of them."""
    worker = worker_resources(config.cluster)
    wanted = "evaluation workers (evaluation.num_workers, cluster.threads_per_worker)"
    wait_for_room(config.name, worker, num_workers, wanted, config.cluster.room_timeout_s)
    return worker
