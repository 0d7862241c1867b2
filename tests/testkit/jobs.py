"""Runs jobs as users do, in separate processes that a test can kill."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from tests.testkit.runs import REPOSITORY


def start_job(script: str, *arguments: str, log: Path) -> subprocess.Popen[bytes]:
    """Starts `python jobs/<script> arguments…` in its own session; its output goes to `log`."""
    with log.open("ab") as file:
        return subprocess.Popen(
            [sys.executable, str(REPOSITORY / "jobs" / script), *arguments],
            cwd=REPOSITORY,
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def finish(process: subprocess.Popen[bytes], log: Path, timeout_s: float = 120) -> str:
    """Waits for a job and returns its output; the test fails with the output if the job failed."""
    code = process.wait(timeout_s)
    text = log.read_text()
    assert code == 0, text[-5000:]
    return text


def wait_for_step(folder: Path, step: int, timeout_s: float = 90) -> None:
    """Waits until the run's log has reached a step."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        path = folder / "metrics.jsonl"
        lines = path.read_text().splitlines() if path.exists() else []
        if any(json.loads(line)["step"] >= step for line in lines if line.endswith("}")):
            return
        time.sleep(0.02)
    raise TimeoutError(f"{folder} did not reach step {step} within {timeout_s} s")


def worker_pid(folder: Path, rank: int = 0) -> int:
    """The process id of the run's latest worker of a rank."""
    lines = (folder / f"events-rank{rank}.jsonl").read_text().splitlines()
    pid: int = json.loads(lines[-1])["pid"]
    return pid


def kill_session(process: subprocess.Popen[bytes]) -> None:
    """Kills the driver and all processes of its Ray at once, like a machine that loses power."""
    os.killpg(process.pid, signal.SIGKILL)
    process.wait(30)
