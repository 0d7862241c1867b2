"""Runs jobs as their users do: in processes of their own, which a test can kill."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from tests.testkit.runs import REPOSITORY


def start_job(script: str, *arguments: str, log: Path) -> subprocess.Popen[bytes]:
    """`python jobs/<script> arguments…` in a session of its own; what it prints goes to `log`."""
    with log.open("ab") as file:
        return subprocess.Popen(
            [sys.executable, str(REPOSITORY / "jobs" / script), *arguments],
            cwd=REPOSITORY,
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def finish(process: subprocess.Popen[bytes], log: Path, timeout_s: float = 120) -> str:
    """What a job printed; the test fails with it if the job did not end well."""
    code = process.wait(timeout_s)
    text = log.read_text()
    assert code == 0, text[-5000:]
    return text


def wait_for_step(folder: Path, step: int, timeout_s: float = 90) -> None:
    """Until the run's log has reached a step."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        path = folder / "metrics.jsonl"
        lines = path.read_text().splitlines() if path.exists() else []
        if any(json.loads(line)["step"] >= step for line in lines if line.endswith("}")):
            return
        time.sleep(0.02)
    raise TimeoutError(f"{folder} did not reach step {step} within {timeout_s} s")


def worker_pid(folder: Path, rank: int = 0) -> int:
    """The process of the run's latest worker of that rank."""
    lines = (folder / f"events-rank{rank}.jsonl").read_text().splitlines()
    pid: int = json.loads(lines[-1])["pid"]
    return pid


def kill_session(process: subprocess.Popen[bytes]) -> None:
    """The driver and all that its Ray started, at once: a machine that lost power."""
    os.killpg(process.pid, signal.SIGKILL)
    process.wait(30)
