"""Injects faults at an exact place of a run: a Ray Train worker with one function replaced.

A fault happens once; a file FAULT-<step> in the run's folder records it. The drivers of these runs
live in the test's process and share one Ray: a fault costs a restart of workers, no start of Ray.
"""

import errno
import json
import os
import signal
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch

from skiprec.config.run import RunConfig
from tests.testkit.runs import REPOSITORY

FAULT_SETTINGS = (
    "cluster.num_workers=2",
    "cluster.zero_stage=2",
    "cluster.step_timeout_s=8",
    "training.checkpoint_every_steps=2",
    "training.validate_every_steps=5",
    "training.keep_checkpoints=9",
)
# Where (see `sabotage`), the name of a function of this module, and the step.
Fault = tuple[str, str, int]
TABLE = REPOSITORY / ".test-results" / "chaos.jsonl"


def note_fault(fault: str, lost: str, recovery_s: float | None, read: str) -> None:
    """Adds a row to the table that is printed at the end of the tier.

    `recovery_s`: None if the run is meant to end.
    """
    row = {"fault": fault, "lost": lost, "recovery_s": recovery_s, "read": read}
    with TABLE.open("a") as file:
        file.write(json.dumps(row) + "\n")


def kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def hang() -> None:
    time.sleep(1000)


def raise_error() -> None:
    raise RuntimeError("the test's own error")


def fill_disk() -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def once(marker: Path, act: Callable[[], None]) -> None:
    """Calls `act` unless this or an earlier process already called it with this marker."""
    try:
        marker.touch(exist_ok=False)
    except FileExistsError:
        return
    act()


def sabotage(place: str, step: int, act: Callable[[], None]) -> None:
    """Makes this process call `act` at a place of a step.

    Args:
        place: "forward", "backward", "gradient" (a NaN instead of `act`), "saving" or "reporting".
    """
    from cluster.training import rank
    from skiprec.training import loop

    current = {"step": -1}
    original_step = loop.run_step

    def run_step(config: Any, plan: Any, engine: Any, batches: Any, comm: Any, at: int) -> Any:
        current["step"] = at
        if at == step and place == "forward":
            inner = engine.engine.module.forward
            engine.engine.module.forward = lambda *a, **k: (act(), inner(*a, **k))[1]
        if at == step and place == "backward":
            parameter = next(engine.objective.parameters())
            parameter.register_hook(lambda grad: (act(), grad)[1])
        if at == step and place == "gradient":
            parameter = next(engine.objective.parameters())
            parameter.register_hook(lambda grad: torch.full_like(grad, float("nan")))
        return original_step(config, plan, engine, batches, comm, at)

    loop.run_step = run_step
    original_save = rank.save_checkpoint

    def save_checkpoint(config: RunConfig, state: Any, engine: Any, comm: Any) -> Path:
        if state.step >= step and place == "saving":
            inner = engine.save
            engine.save = lambda draft: (inner(draft), act())[0]
        checkpoint = original_save(config, state, engine, comm)
        if state.step >= step and place == "reporting":
            act()
        return checkpoint

    rank.save_checkpoint = save_checkpoint


def faulty_worker(settings: dict[str, Any], faults: tuple[Fault, ...], repeats: bool) -> None:
    """`cluster.training.worker.ray_train_worker`, with faults on rank 1."""
    import ray.train

    from cluster.training.worker import ray_train_worker

    if ray.train.get_context().get_world_rank() == 1:
        for place, act, step in faults:
            fault: Callable[[], None] = globals()[act]
            marker = run_folder(settings) / f"FAULT-{step}"
            sabotage(place, step, fault if repeats else partial(once, marker, fault))
    ray_train_worker(settings)


def with_faults(*faults: Fault, repeats: bool = False) -> Callable[..., None]:
    """A worker function with faults, for `cluster.training.launch` instead of the real one.

    Args:
        faults: each at another step.
        repeats: whether each happens at every start and not only once.
    """
    return partial(faulty_worker, faults=faults, repeats=repeats)


def slow_worker(settings: dict[str, Any]) -> None:
    """`cluster.training.worker.ray_train_worker`, with a pause before each step until `hurry`."""
    from cluster.training.worker import ray_train_worker
    from skiprec.training import loop

    folder = run_folder(settings)
    original = loop.run_step

    def run_step(*args: Any) -> Any:
        if not (folder / "HURRY").exists():
            time.sleep(0.3)
        return original(*args)

    loop.run_step = run_step
    ray_train_worker(settings)


def run_folder(settings: dict[str, Any]) -> Path:
    """The run's folder, from the settings of a worker."""
    return Path(settings["config"]["root"]) / settings["config"]["name"]


def hurry(config: RunConfig) -> None:
    """Lets `slow_worker` run as fast as it can."""
    (config.folder / "HURRY").touch()
