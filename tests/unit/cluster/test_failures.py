"""The decision between restart and end after a worker failed, without Ray."""

import errno
import json
import subprocess
import sys
from pathlib import Path

import pytest
from ray.exceptions import ActorDiedError, RayActorError
from ray.train.v2._internal.exceptions import WorkerHealthCheckFailedError
from safetensors import SafetensorError

from cluster.runs.events import controller_events
from cluster.training.failures import (
    FailureReports,
    RunFailedError,
    StepFailedError,
    Watchdog,
    stacks_file,
    step_failed,
)
from tests.testkit.runs import REPOSITORY


def logged(folder: Path) -> list[str]:
    """The messages in the controller's event file."""
    lines = controller_events(folder).read_text().splitlines()
    return [json.loads(line)["message"] for line in lines]


def dead(how: Exception) -> Exception:
    """The error with which Ray Train reports the death of a worker."""
    return WorkerHealthCheckFailedError("Worker actor died", failure=how)


def error(step: int, cause: str = "RuntimeError: x") -> StepFailedError:
    return StepFailedError(step, cause, is_final=False)


def test_a_dead_worker_is_retried_as_often_as_is_allowed(tmp_path: Path) -> None:
    reports = FailureReports(tmp_path, max_failures=2)
    for number in (1, 2):
        reports.after_exception(None, {0: error(number), 1: dead(ActorDiedError())})
        assert logged(tmp_path)[-1] == (
            f"rank 1 died; restarting from the newest good checkpoint ({number} of 2 retries)"
        ), "the error of rank 0 is that it lost rank 1"
    with pytest.raises(RunFailedError, match="max_failures=2 is used up"):
        reports.after_exception(None, {1: ActorDiedError()})


def test_ranks_with_one_error_are_told_of_once(tmp_path: Path) -> None:
    reports = FailureReports(tmp_path, max_failures=2)
    reports.after_exception(None, {0: error(3), 1: error(3), 2: error(4, "ValueError: y")})
    assert logged(tmp_path)[0].startswith(
        "ranks 0, 1 failed in step 3: RuntimeError: x; rank 2 failed in step 4: ValueError: y; "
    )


def test_the_same_step_ends_the_run_at_its_second_failure_another_step_does_not(
    tmp_path: Path,
) -> None:
    reports = FailureReports(tmp_path, max_failures=9)
    for step in (3, 4):
        reports.after_exception(None, {0: error(step)})
    with pytest.raises(RunFailedError, match="step 4 failed twice"):
        reports.after_exception(None, {0: error(4)})


def test_a_machine_that_is_taken_away_uses_no_retry(tmp_path: Path) -> None:
    reports = FailureReports(tmp_path, max_failures=0)
    for _ in range(3):
        reports.after_exception(None, {0: error(3), 1: dead(RayActorError(preempted=True))})
    assert logged(tmp_path)[0] == (
        "the machine of rank 1 was taken away; restarting from the newest good checkpoint"
    )


@pytest.mark.parametrize(
    ("raised", "is_final"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), True),
        (SafetensorError("Error while serializing: I/O error: … (os error 28)"), True),
        (ValueError("wrong data"), True),
        (FloatingPointError("not finite"), True),
        (OSError(errno.EIO, "Input/output error"), False),
        (RuntimeError("a lost connection"), False),
    ],
)
def test_what_only_a_person_can_mend_is_final(
    tmp_path: Path, raised: Exception, is_final: bool
) -> None:
    failed = step_failed(7, raised)
    assert failed.is_final == is_final
    assert str(raised) in str(failed)
    reports = FailureReports(tmp_path, max_failures=9)
    if is_final:
        with pytest.raises(RunFailedError, match="trying again would not help"):
            reports.after_exception(None, {0: failed})
    else:
        reports.after_exception(None, {0: failed})
    assert "in step 7" in logged(tmp_path)[0]


def test_a_run_ends_with_its_reason_on_a_disk_that_takes_no_more_events(tmp_path: Path) -> None:
    reports = FailureReports(tmp_path / "no such folder", max_failures=9)
    failed = step_failed(7, OSError(errno.ENOSPC, "No space left on device"))
    with pytest.raises(RunFailedError, match="No space left"):
        reports.after_exception(None, {0: failed})


HANGING = """
import sys, time
from pathlib import Path
from cluster.training.failures import Watchdog
watchdog = Watchdog(Path(sys.argv[1]), 3, 0.5)
for step in range(3):
    watchdog.beat(step)
    time.sleep(0.3)
def a_telling_name():
    time.sleep(60)
a_telling_name()
"""


def test_the_watchdog_lets_work_pass_and_ends_what_hangs_with_its_stacks(tmp_path: Path) -> None:
    command = [sys.executable, "-c", HANGING, str(tmp_path)]
    ended = subprocess.run(command, cwd=REPOSITORY, timeout=30, check=False)
    assert ended.returncode == 1
    assert "a_telling_name" in stacks_file(tmp_path, 3).read_text()
    FailureReports(tmp_path, 1).after_exception(None, {3: ActorDiedError()})
    told, _, where = logged(tmp_path)[0].partition("its stacks: ")
    assert told == "rank 3 died because a step took too long ("
    Watchdog(tmp_path, 3, 60).stop()  # the next start
    assert "a_telling_name" in Path(where.partition(")")[0]).read_text()
