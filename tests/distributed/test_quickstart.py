"""The quickstart from its first question to what it found, on the smoke data."""

import json
import runpy
import shlex
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from tests.testkit.repository import ROOT
from tests.testkit.runs import build_smoke_data

SMALL = (
    "data.recipe=",
    "data.inputs=",
    "model.width=16",
    "training.epochs=1",
    "training.validate_every_steps=8",
    "training.engine=torch",
    "cluster.num_workers=0",
    "cluster.threads_per_worker=1",
    "evaluation.num_workers=0",
    "evaluation.timing_batches=[1]",
    "evaluation.timing_repeats=3",
    "evaluation.timing_users=16",
)


def test_the_quickstart_goes_to_its_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    data = build_smoke_data(tmp_path)
    monkeypatch.chdir(ROOT)
    main = runpy.run_path("jobs/run_quickstart.py", run_name="not_main")["main"]
    options = (f"root={tmp_path}", f"data.path={data}", *SMALL)
    assert main([part for option in options for part in ("--set", option)]) == 0
    printed = capsys.readouterr().out
    steps = [line for line in printed.splitlines() if line.startswith("== ")]
    assert len(steps) == 5
    found = printed[printed.index("== What this data said") :]
    assert "order beyond the last item" in found
    assert "trained alone, 2 blocks reach MRR@20" in " ".join(found.split())
    assert "depth by user" in found
    assert "settings of its price" in " ".join(found.split())
    runs = {"quickstart-2": 2, "quickstart-16": 16, "quickstart-exits": 16, "quickstart": 16}
    for name, blocks in runs.items():
        config = json.loads((tmp_path / name / "config.json").read_text())
        assert config["model"]["num_blocks"] == blocks
    assert (tmp_path / "quickstart-exits/headroom.json").exists()
    check_the_printed_commands(printed)


def check_the_printed_commands(printed: str) -> None:
    """What the quickstart prints last opens the service, an answer over HTTP and both pages."""
    lines = dict(line.split(": ", 1) for line in printed.splitlines() if ": " in line)
    serve, look = (shlex.split(lines[name]) for name in ("serve it", "look at the run"))
    assert Path(serve[0]).resolve() == Path(sys.executable).resolve()
    with started([*serve, "--port", "0"]) as address:
        body = shlex.split(lines["and ask"])[-1]
        answer = httpx.post(f"{address}/v1/recommend", content=body).json()["results"][0]
        assert answer["source"] == "model"
        assert len(answer["items"]) == 3
        assert "Who gets depth" in httpx.get(address).text
    with started([*look, "--port", "0"]) as address:
        assert "quickstart: accuracy against speed" in httpx.get(address).text


@contextmanager
def started(command: list[str]) -> Iterator[str]:
    """The address that a command of a server prints first."""
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield "http://" + process.stdout.readline().split("http://")[1].split()[0]
        finally:
            process.terminate()
