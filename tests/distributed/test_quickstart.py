"""The quickstart from its first question to what it found, on the smoke data."""

import json
import runpy
from pathlib import Path

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
    assert (tmp_path / "quickstart/export/manifest.json").exists()
