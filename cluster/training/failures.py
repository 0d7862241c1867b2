"""What a failed worker means for its run: told to the user, and ended where it would only recur.

A worker that died (killed, out of memory, its machine gone) is restarted by Ray Train, with the
others, from the newest good checkpoint. An error that comes back in the same step, or that only a
person can mend, ends the run at once, with its reason.
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

GOING_ON = "restarting from the newest good checkpoint"
FULL_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)


class RunFailedError(RuntimeError):
    """The run ended before its last step, and would again; the message says why."""


class StepFailedError(RuntimeError):
    """An error of a worker, with the step in which it was raised.

    `is_final`: trying again would not help.
    """

    def __init__(self, step: int, what: str, is_final: bool):
        super().__init__(step, what, is_final)
        self.step, self.what, self.is_final = step, what, is_final

    def __str__(self) -> str:
        return f"in step {self.step}: {self.what}"


def step_failed(step: int, error: Exception) -> StepFailedError:
    """The error that a worker hands to Ray in the place of its own."""
    is_full = isinstance(error, OSError) and error.errno in FULL_DISK
    if isinstance(error, SafetensorError):  # it tells the number in words
        is_full = any(f"(os error {number})" in str(error) for number in FULL_DISK)
    what = f"{type(error).__name__}: {error}"
    if is_full:
        what += " (the newest checkpoint is whole; make room, and give the same command again)"
    is_final = is_full or isinstance(error, ValueError | FloatingPointError)
    return StepFailedError(step, what, is_final)


class FailureReports(UserCallback):
    """Lives in Ray Train's controller; sees each failure before Ray decides on a restart."""

    def __init__(self, folder: Path, max_failures: int):
        self.folder, self.max_failures = folder, max_failures
        self.num_failures = 0
        self.last_step: int | None = None

    def after_exception(self, run_context: Any, worker_exceptions: dict[int, Exception]) -> None:
        """Says what failed.

        Raises:
            RunFailedError: it would only fail again. Ray ends the run on any error from here.
        """
        # How a worker died is wrapped in the report that it no longer answers.
        errors = {
            rank: getattr(error, "health_check_failure", error)
            for rank, error in worker_exceptions.items()
        }
        left = [rank for rank, error in errors.items() if getattr(error, "preempted", False)]
        if left:  # Ray does not count it as a failure either; other ranks lost their connection
            ranks = ", ".join(f"rank {rank}" for rank in sorted(left))
            self._tell(f"the machine of {ranks} was taken away; {GOING_ON}")
            return
        raised = {rank: e for rank, e in errors.items() if isinstance(e, StepFailedError)}
        died = sorted(errors.keys() - raised.keys())
        self.num_failures += 1
        reason = "; ".join(
            [f"rank {rank} died{self._stacks_of(rank)}" for rank in died]
            + [f"{ranks} failed {what}" for what, ranks in _ranks_by_error(raised) if not died]
        )
        # Where a rank died, the others' errors are lost connections.
        step = min((error.step for error in raised.values()), default=None) if not died else None
        ending = None
        if any(error.is_final for error in raised.values()):
            ending = "trying again would not help"
        elif step is not None and step == self.last_step:
            ending = f"step {step} failed twice"
        elif self.num_failures > self.max_failures:
            ending = f"cluster.max_failures={self.max_failures} is used up"
        self.last_step = step
        going_on = f"{GOING_ON} ({self.num_failures} of {self.max_failures} retries)"
        self._tell(f"{reason}; {ending or going_on}")
        if ending is not None:
            first = next(iter(worker_exceptions.values()))
            raise RunFailedError(f"{reason}; {ending}.\n{first}")

    def _stacks_of(self, rank: int) -> str:
        path = stacks_file(self.folder, rank)
        hung = path.exists() and path.stat().st_size > 0
        return f" because a step took too long (its stacks: {path})" if hung else ""

    def _tell(self, message: str) -> None:
        with suppress(OSError):  # on a full disk the run must still end with its reason
            with controller_events(self.folder).open("a") as file:
                file.write(json.dumps({"time": time.time(), "message": message}) + "\n")


def _ranks_by_error(raised: dict[int, StepFailedError]) -> list[tuple[str, str]]:
    """Each message once, with the ranks that have it."""
    ranks: dict[str, list[int]] = {}
    for rank, error in sorted(raised.items()):
        ranks.setdefault(str(error), []).append(rank)
    return [
        (what, f"rank{'s' * (len(having) > 1)} {', '.join(map(str, having))}")
        for what, having in ranks.items()
    ]


def stacks_file(folder: Path, rank: int) -> Path:
    """Where a rank that hangs writes what each of its threads was doing."""
    return folder / f"stacks-rank{rank}.txt"


class Watchdog:
    """Ends a process that has not called `beat` for `timeout_s`, after writing its stacks.

    A thread of C waits, so it also works while Python's lock is held.
    """

    def __init__(self, folder: Path, rank: int, timeout_s: float):
        self.timeout_s, self.step = timeout_s, 0
        self.file = stacks_file(folder, rank).open("w")

    def beat(self, step: int) -> None:
        """The process is alive, and in this step."""
        self.step = step
        faulthandler.dump_traceback_later(self.timeout_s, exit=True, file=self.file)

    def stop(self) -> None:
        """The work is done."""
        faulthandler.cancel_dump_traceback_later()
        self.file.close()
