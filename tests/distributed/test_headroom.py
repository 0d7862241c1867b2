"""The measurement of headroom on a trained run: its files, and the runs that it refuses."""

import json
from pathlib import Path

import numpy as np
import pytest
from pydantic import TypeAdapter

from cluster.evaluation import headroom
from cluster.evaluation.evaluate import evaluation_config
from cluster.evaluation.headroom import measure_run, print_headroom
from cluster.runs.folder import open_run
from skiprec.evaluation.headroom.schema import HeadroomReport
from skiprec.evaluation.report.schema import METRIC
from tests.testkit.runs import build_smoke_data, smoke_config, train_here

NO_POLICY = ("policy={kind='none'}", "training.execution=dense")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    data = build_smoke_data(folder)
    exits = (*NO_POLICY, "model.exits=[1,2,4]")
    for name, more in (("plain", NO_POLICY), ("gumbel", ()), ("exits", exits)):
        config = smoke_config(folder, data, "training.engine=torch", f"name={name}", *more)
        open_run(config)
        train_here(config)
    return folder


def measure(run_folder: Path, *overrides: str) -> dict:
    path = measure_run(evaluation_config(run_folder, list(overrides)), run_folder, "a test")
    TypeAdapter(HeadroomReport).validate_json(path.read_text(), strict=True)
    return json.loads(path.read_text())


def test_a_backbone_gets_its_report(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = root / "plain"
    report = measure(folder)
    assert sorted(report["removed_first"]) == [0, 1, 2, 3]
    assert [s["kept_blocks"] for s in report["sets"]] == [1, 2, 3, 4]
    assert report["sets"][-1]["cost_nats"] == 0
    assert len(report["pairs"]) == 3
    assert all(1 <= point["kept_blocks"] <= 4 for point in report["curve"])
    assert any("never trained for skipping" in text for text in report["statements"])
    written = (folder / "headroom.json").stat().st_mtime_ns
    for name in ("headroom.md", "headroom.png"):
        assert (folder / name).stat().st_mtime_ns <= written, "headroom.json comes last"
    print_headroom(folder)
    printed = capsys.readouterr().out
    assert "minus the frontier" in printed
    assert report["statements"][0] in printed
    again = measure(folder)
    for key in ("removed_first", "sets", "sizes", "pairs", "curve", "statements"):
        assert again[key] == report[key]


def test_the_nest_and_the_held_out_rows_are_other_rows(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The nested sets and the fit use validation rows; the reported numbers use test rows alone."""
    seen = []
    read_tiles = headroom.read_tiles

    def spied(shards, row_R):
        seen.append((shards.split, len(np.unique(row_R))))
        return read_tiles(shards, row_R)

    monkeypatch.setattr(headroom, "read_tiles", spied)
    report = measure(root / "plain", "evaluation.max_rows=70")
    assert [split for split, _ in seen] == ["validation", headroom.FIT_SPLIT, "test"]
    assert seen[-1][1] == report["conditions"]["rows"] == 70
    assert report["shared_users_frac"] == 0, "the smoke data is split by user"


def test_a_run_with_a_policy_is_measured_without_it(root: Path) -> None:
    report = measure(root / "gumbel")
    assert report["conditions"]["trained_to_skip"]
    assert len(report["statements"]) == 1
    assert 0 < report["sets"][-1][METRIC] < 1


def test_a_network_with_exits_is_measured_at_them(root: Path) -> None:
    report = measure(root / "exits")
    assert report["removed_first"] is None
    assert [s["kept_blocks"] for s in report["sets"]] == [1, 2, 4]
    assert report["conditions"]["reads_after"] == 1
    (verdict,) = report["statements"]
    assert "the state at exit 1" in verdict


def test_what_cannot_be_measured_is_said_clearly(root: Path) -> None:
    with pytest.raises(
        ValueError, match="is the split that the predictor learns from; set another"
    ):
        measure(root / "plain", f"evaluation.split={headroom.FIT_SPLIT}")
    baseline = ("training.engine=torch", "model.backbone=gru4rec", "name=gru", *NO_POLICY)
    config = smoke_config(root, root / "data", *baseline)
    open_run(config)
    train_here(config)
    with pytest.raises(ValueError, match="'gru4rec' has no residual blocks"):
        measure(root / "gru")
    assert not list((root / "gru").glob("*headroom*"))
    with pytest.raises(ValueError, match="is not a run's folder"):
        measure(root / "nothing")
