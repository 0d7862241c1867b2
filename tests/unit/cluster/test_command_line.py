"""What `--dry-run` prints."""

from pathlib import Path

import pytest

from cluster.command_line import resolved
from tests.testkit.runs import build_smoke_data, smoke_config


def test_a_dry_run_says_what_would_run_and_what_it_needs(tmp_path: Path) -> None:
    config = smoke_config(
        tmp_path, tmp_path / "data", "cluster.num_workers=2", "cluster.zero_stage=2"
    )
    shown = resolved(config)
    assert shown["config"]["model"]["num_blocks"] == 4
    assert shown["deepspeed"]["zero_optimization"]["stage"] == 2
    assert shown["worker_gb"] is None, "without the data, the size of the catalogue is unknown"
    build_smoke_data(tmp_path)
    needs = resolved(config)["worker_gb"]
    parts = [*needs["held"].values(), *needs["more_in_a_step"].values()]
    assert needs["peak_without_activations"] == pytest.approx(sum(parts), abs=5e-3)


def test_the_torch_engine_has_no_dictionary_of_deepspeed_s(tmp_path: Path) -> None:
    config = smoke_config(tmp_path, tmp_path / "data", "training.engine=torch")
    assert resolved(config)["deepspeed"] is None
