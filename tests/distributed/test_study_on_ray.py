"""A study whose runs are trained and evaluated by workers of Ray."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.testkit.runs import REPOSITORY, build_smoke_data
from tests.testkit.studies import options_of

ON_RAY = """
title = "A backbone and a policy that starts from it"
configs = "{configs}"
rows = [
  {{ label = "NextItNet+", config = "nextitnet_plus" }},
  {{ label = "Gumbel w/ pre", config = "gumbel_pre" }},
]
"""


@pytest.mark.slow
def test_a_study_runs_on_ray(tmp_path: Path) -> None:
    """In a process of its own. The second row starts from the first."""
    build_smoke_data(tmp_path)
    study = tmp_path / "pair"
    study.with_suffix(".toml").write_text(ON_RAY.format(configs=REPOSITORY / "jobs/configs/ml_1m"))
    options = options_of(str(study), tmp_path, tmp_path / "runs", num_workers=1)
    command = [sys.executable, "jobs/run_study.py", *options, "--set", "model.num_blocks=4"]
    done = subprocess.run(
        command,
        cwd=REPOSITORY,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=600,
    )
    printed = done.stdout
    assert done.returncode == 0, printed[-5000:]
    assert "training from step 0" in printed
    assert "not run" not in (study / "table.md").read_text()
    assert len(json.loads((study / "study.json").read_text())["results"]) == 2
