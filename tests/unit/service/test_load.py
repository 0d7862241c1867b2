"""The job under a bounded load from a second process, in an open loop: nothing is lost."""

import json
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.testkit.exports import IDS, export_small_model
from tests.testkit.repository import ROOT
from tests.testkit.service import served_by_the_job

pytestmark = pytest.mark.slow
SECONDS, PER_SECOND = 4, 60


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two models, "a" and "b"."""
    folder = tmp_path_factory.mktemp("models")
    for name, kind in (("a", "gumbel"), ("b", "cost")):
        export_small_model(folder / name, kind=kind)
    return folder


def send(address: str, folder: Path, connections: int) -> dict[str, list[Any]]:
    """What `benchmarks/load.py` reports of requests at random moments."""
    draw = np.random.default_rng(0)
    count = SECONDS * PER_SECOND
    plan = {
        "connections": connections,
        "moments_s": np.sort(draw.uniform(0, SECONDS, count)).tolist(),
        "histories": [draw.choice(IDS, 4).tolist() for _ in range(count)],
        "targets": draw.choice(IDS, count).tolist(),
        "body": {"k": 20, "explain": True},
    }
    (folder / "plan.json").write_text(json.dumps(plan))
    files = ("--plan", str(folder / "plan.json"), "--output", str(folder / "sent.json"))
    command = [sys.executable, "benchmarks/load.py", "--address", address, *files]
    subprocess.run(command, cwd=ROOT, check=True, timeout=60)
    sent: dict[str, list[Any]] = json.loads((folder / "sent.json").read_text())
    return sent


@pytest.mark.parametrize("swaps", [0, 10])
@pytest.mark.parametrize("connections", [1, 8, 64])
def test_every_request_of_an_open_loop_is_answered(
    models: Path, tmp_path: Path, connections: int, swaps: int
) -> None:
    pointer = tmp_path / "current"
    pointer.write_text(str(models / "a"))

    def swap() -> None:
        for number in range(swaps):
            time.sleep((SECONDS + 1) / (swaps + 1))
            draft = tmp_path / "draft"
            draft.write_text(str(models / "ba"[number % 2]))
            draft.replace(pointer)

    # The pointer is looked at each second, so fewer than ten swaps may be done within the load.
    with served_by_the_job("--pointer", str(pointer)) as (_, address):
        swapping = threading.Thread(target=swap)
        swapping.start()
        sent = send(address, tmp_path, connections)
        swapping.join()
    assert set(sent["status"]) == {200}
    assert len(sent["status"]) == SECONDS * PER_SECOND
    assert all(latency > 0 for latency in sent["latency_ms"])


def test_the_load_notices_a_service_that_is_gone(tmp_path: Path, models: Path) -> None:
    """The control: requests that nobody answers are errors, and their latency counts."""
    with served_by_the_job("--model", str(models / "a")) as (process, address):
        killer = threading.Timer(2.0, process.kill)
        killer.start()
        sent = send(address, tmp_path, 8)
    assert set(sent["status"]) == {0, 200}
