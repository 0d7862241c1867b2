"""The service on Ray Serve answers as in one process, grows, and survives a killed replica."""

import contextlib
import os
import signal
import threading
import time
from pathlib import Path

import httpx
import psutil
import pytest

from tests.testkit.exports import IDS, export_small_model
from tests.testkit.service import ask, free_port, served_by_the_job, serving

pytestmark = pytest.mark.slow
BODY = {"histories": [[IDS[0], IDS[1]], []], "k": 5}


def replicas_of(pid: int) -> list[int]:
    """The processes of the replicas of a job."""
    found = []
    for child in psutil.Process(pid).children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):  # also of one that has just ended
            if "ServeReplica" in " ".join(child.cmdline()):
                found.append(child.pid)
    return found


def test_a_killed_replica_is_replaced_and_the_other_answers_meanwhile(tmp_path: Path) -> None:
    export_small_model(tmp_path / "model")
    with serving(tmp_path / "model") as (_, address):
        expected = ask(address, BODY).json()["results"]
    options = ("--ray", "--min-replicas", "2", "--max-replicas", "2")
    given = ("--model", str(tmp_path / "model"), "--port", str(free_port()))
    with served_by_the_job(*given, *options) as (process, address):
        answer = ask(address, BODY).json()["results"]
        for found, wanted in zip(answer, expected, strict=True):
            assert found | {"ms": None} == wanted | {"ms": None}
        before = replicas_of(process.pid)
        assert len(before) == 2
        statuses: list[int] = []
        ends = threading.Event()

        def keep_asking() -> None:
            with httpx.Client(timeout=30) as client:
                while not ends.is_set():
                    try:
                        status = client.post(f"{address}/v1/recommend", json=BODY).status_code
                    except httpx.HTTPError:
                        status = 0
                    statuses.append(status)

        asking = threading.Thread(target=keep_asking)
        asking.start()
        time.sleep(1)
        os.kill(before[0], signal.SIGKILL)
        wait_for_replacement(process.pid, before)
        count = len(statuses)
        while len(statuses) < count + 50:
            time.sleep(0.05)
        ends.set()
        asking.join()
        failed = len(statuses) - statuses.count(200)
        assert failed <= 5, f"{failed} of {len(statuses)} requests failed"
        assert set(statuses[count + 10 :]) == {200}
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0


def test_replicas_come_with_the_load(tmp_path: Path) -> None:
    """One replica is there; with more than eight requests at once in work Ray adds the second."""
    export_small_model(tmp_path / "model")
    options = ("--ray", "--min-replicas", "1", "--max-replicas", "2")
    given = ("--model", str(tmp_path / "model"), "--port", str(free_port()))
    heavy = {"histories": [[IDS[n % 30] for n in range(4000)]] * 60, "k": 30}
    with served_by_the_job(*given, *options) as (process, address):
        assert len(replicas_of(process.pid)) == 1
        ends = threading.Event()
        statuses: list[int] = []

        def keep_asking() -> None:
            with httpx.Client(timeout=60) as client:
                while not ends.is_set():
                    answer = client.post(f"{address}/v1/recommend", json=heavy)
                    statuses.append(answer.status_code)

        asking = [threading.Thread(target=keep_asking) for _ in range(24)]
        for one in asking:
            one.start()
        try:
            end = time.monotonic() + 120
            while len(replicas_of(process.pid)) < 2:
                assert time.monotonic() < end
                time.sleep(0.5)
        finally:
            ends.set()
            for one in asking:
                one.join()
        assert set(statuses) <= {200, 429, 504}
        assert 200 in statuses
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0


def wait_for_replacement(pid: int, before: list[int]) -> None:
    end = time.monotonic() + 90
    while len(set(replicas_of(pid)) - {before[0]}) < 2:
        assert time.monotonic() < end
        time.sleep(0.2)
