"""Decides whether a run restarts or ends when a worker fails, and logs the reason.

If a worker died (killed, out of memory, machine lost), Ray Train restarts all workers from the
newest good checkpoint. An error that recurs in the same step, or that only a person can fix, ends
the run at once, with its reason.
"""

import errno
import faulthandler
import json
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from ray.train import UserCallback
from safetensors import SafetensorError

from cluster.runs.events import controller_events

RESTARTING = "restarting from the newest good checkpoint"
FULL_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)


class RunFailedError(RuntimeError):
    """The run ended before its last step and a retry would not help; the message has the reason."""


class StepFailedError(RuntimeError):
    """An error of a worker, with the step in which it was raised.

    Args:
        cause: the type and message of the worker's own error.
        is_final: whether trying again would not help.
    """

    def __init__(self, step: int, cause: str, is_final: bool):
        super().__init__(step, cause, is_final)
        self.step, self.cause, self.is_final = step, cause, is_final

    def __str__(self) -> str:
        return f"in step {self.step}: {self.cause}"


def step_failed(step: int, error: Exception) -> StepFailedError:
    """The error that a worker raises to Ray instead of its own."""
    is_full = isinstance(error, OSError) and error.errno in FULL_DISK
    if isinstance(error, SafetensorError):  # the error number is only in the message
        is_full = any(f"(os error {number})" in str(error) for number in FULL_DISK)
    cause = f"{type(error).__name__}: {error}"
    if is_full:
        cause += " (the newest checkpoint is whole; make room, and give the same command again)"
    is_final = is_full or isinstance(error, ValueError | FloatingPointError)
    return StepFailedError(step, cause, is_final)


class FailureReports(UserCallback):
    """A callback in Ray Train's controller, called for each failure before Ray restarts workers.

    Args:
        folder: the run's folder, for the event file.
        max_failures: failures after which the run ends.
    """

    def __init__(self, folder: Path, max_failures: int):
        self.folder, self.max_failures = folder, max_failures
        self.num_failures = 0
        self.last_step: int | None = None

    def after_exception(self, run_context: Any, worker_exceptions: dict[int, Exception]) -> None:
        """Logs the failure, with the errors by rank.

        Raises:
            RunFailedError: the run has to end. Ray ends a run on any error that is raised here.
        """
        # Ray Train wraps the cause of a worker's death in the error that the worker is unhealthy.
        errors = {
            rank: getattr(error, "health_check_failure", error)
            for rank, error in worker_exceptions.items()
        }
        preempted = [rank for rank, error in errors.items() if getattr(error, "preempted", False)]
        if preempted:
            # Ray does not count a preemption as a failure either. The other ranks' errors are that
            # they lost their connection.
            ranks = ", ".join(f"rank {rank}" for rank in sorted(preempted))
            self._log(f"the machine of {ranks} was taken away; {RESTARTING}")
            return
        raised = {rank: e for rank, e in errors.items() if isinstance(e, StepFailedError)}
        died = sorted(errors.keys() - raised.keys())
        self.num_failures += 1
        reason = "; ".join(
            [f"rank {rank} died{self._stacks_of(rank)}" for rank in died]
            + [f"{ranks} failed {cause}" for cause, ranks in _ranks_by_error(raised) if not died]
        )
        # If a rank died, the errors of the others are that they lost their connection.
        step = min((error.step for error in raised.values()), default=None) if not died else None
        ending = None
        if any(error.is_final for error in raised.values()):
            ending = "trying again would not help"
        elif step is not None and step == self.last_step:
            ending = f"step {step} failed twice"
        elif self.num_failures > self.max_failures:
            ending = f"cluster.max_failures={self.max_failures} is used up"
        self.last_step = step
        restart = f"{RESTARTING} ({self.num_failures} of {self.max_failures} retries)"
        self._log(f"{reason}; {ending or restart}")
        if ending is not None:
            first = next(iter(worker_exceptions.values()))
            raise RunFailedError(f"{reason}; {ending}.\n{first}")

    def _stacks_of(self, rank: int) -> str:
        """Why a rank died, if it hung; its stacks get a name that the next start does not use."""
        path = stacks_file(self.folder, rank)
        if not path.exists() or path.stat().st_size == 0:
            return ""
        with suppress(OSError):
            path = path.rename(path.with_stem(f"{path.stem}-{time.strftime('%Y%m%dT%H%M%S')}"))
        return f" because a step took too long (its stacks: {path})"

    def _log(self, message: str) -> None:
        with suppress(OSError):  # On a full disk, the run must still end with its reason.
            with controller_events(self.folder).open("a") as file:
                file.write(json.dumps({"time": time.time(), "message": message}) + "\n")


def _ranks_by_error(raised: dict[int, StepFailedError]) -> list[tuple[str, str]]:
    """(message, "rank 0" or "ranks 0, 1") for each distinct error message."""
    ranks: dict[str, list[int]] = {}
    for rank, error in sorted(raised.items()):
        ranks.setdefault(str(error), []).append(rank)
    return [
        (message, f"rank{'s' * (len(failed) > 1)} {', '.join(map(str, failed))}")
        for message, failed in ranks.items()
    ]


def stacks_file(folder: Path, rank: int) -> Path:
    """The file to which a hanging rank writes the stack traces of its threads."""
    return folder / f"stacks-rank{rank}.txt"


class Watchdog:
    """Ends the process when `beat` was not called for `timeout_s` seconds; writes stacks first.

    The timer is a thread of the C runtime, so it also works while Python's global lock is held.
    """

    def __init__(self, folder: Path, rank: int, timeout_s: float):
        self.timeout_s, self.step = timeout_s, 0
        self.file = stacks_file(folder, rank).open("w")

    def beat(self, step: int) -> None:
        """Restarts the timer; the first call starts it."""
        self.step = step
        faulthandler.dump_traceback_later(self.timeout_s, exit=True, file=self.file)

    def stop(self) -> None:
        """Cancels the timer and closes the file."""
        faulthandler.cancel_dump_traceback_later()
        self.file.close()
