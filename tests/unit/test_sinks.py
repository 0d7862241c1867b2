"""The sinks: their output can be read back from TensorBoard, JSON lines and the console."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

from skiprec.observability.pictures import (
    block_keep_rates,
    figure_to_array,
    keep_heat_map,
    kept_blocks_histogram,
)
from skiprec.observability.sinks import ConsoleSink, JsonlSink, NoSink, SeveralSinks
from skiprec.observability.tensorboard import TensorBoardSink, write_evaluation

KEEP_UL = (np.arange(60).reshape(12, 5) % 3 == 0).astype(np.float32)
SETTINGS = {"name": "run", "model": {"width": 8, "dilations": (1, 4)}, "init_from": None}


def read_events(folder: Path) -> EventAccumulator:
    return EventAccumulator(str(folder), size_guidance={"images": 0, "scalars": 0}).Reload()


def read_hparams(events: EventAccumulator) -> dict[str, Any]:
    data = events.summary_metadata["_hparams_/session_start_info"].plugin_data.content
    return dict(HParamsPluginData.FromString(data).session_start_info.hparams)


def test_tensorboard_can_be_read_back(tmp_path: Path) -> None:
    sink = TensorBoardSink(tmp_path, 0, SETTINGS)
    sink.scalars(1, {"train/loss": 3.5, "lr/backbone": 0.1})
    sink.scalars(2, {"train/loss": 2.5, "validation/mrr@20": 0.25})
    sink.decisions(2, KEEP_UL)
    sink.close()
    events = read_events(tmp_path)
    assert [(e.step, e.value) for e in events.Scalars("train/loss")] == [(1, 3.5), (2, 2.5)]
    assert [e.step for e in events.Scalars("lr/backbone")] == [1]
    assert events.Scalars("hparam/validation/mrr@20")[0].value == 0.25
    for name in ("policy/blocks_by_users", "policy/kept_blocks"):
        (image,) = events.Images(name)
        assert image.step == 2
        assert (image.width, image.height) > (300, 200)
        assert image.encoded_image_string.startswith(b"\x89PNG")
    hparams = read_hparams(events)
    assert hparams["name"].string_value == "run"
    assert hparams["model.width"].number_value == 8
    assert hparams["model.dilations"].string_value == "(1, 4)"
    assert "init_from" not in hparams, "options that are not set are not shown"


def test_tensorboard_of_a_resumed_run_has_each_step_once(tmp_path: Path) -> None:
    lost = TensorBoardSink(tmp_path, 0, SETTINGS)
    for step in range(1, 7):
        lost.scalars(step, {"train/loss": float(step)})
    lost.writer.close()  # killed after step 6; its newest checkpoint is of step 4
    resumed = TensorBoardSink(tmp_path, 4, SETTINGS)
    for step in range(5, 9):
        resumed.scalars(step, {"train/loss": 10.0 * step})
    resumed.close()
    events = read_events(tmp_path).Scalars("train/loss")
    assert [e.step for e in events] == list(range(1, 9))
    assert [e.value for e in events] == [1, 2, 3, 4, 50, 60, 70, 80]


def lines(path: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_jsonl_has_one_object_a_call_at_once(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    sink = JsonlSink(path, 0)
    sink.scalars(1, {"train/loss": 3.5})
    assert lines(path) == [{"step": 1, "train/loss": 3.5}], (
        "lines are readable before the file is closed"
    )
    sink.decisions(1, KEEP_UL)
    sink.scalars(2, {"train/loss": 2.5})
    sink.close()
    assert [line["step"] for line in lines(path)] == [1, 2]


@pytest.mark.parametrize(
    ("tail", "resume_step", "kept"),
    [
        ("", 4, [1, 2, 3, 4]),
        ("", 0, []),
        ("", 99, [1, 2, 3, 4, 5, 6]),
        ('{"step": 7, "trai', 99, [1, 2, 3, 4, 5, 6]),
        ('{"step": 7, "trai\n{"step": 3}\n', 99, [1, 2, 3, 4, 5, 6]),
        ('{"loss": 7}\n', 99, [1, 2, 3, 4, 5, 6]),
        ("\x00\x00\x00", 2, [1, 2]),
    ],
)
def test_jsonl_cuts_what_a_lost_attempt_left(
    tmp_path: Path, tail: str, resume_step: int, kept: list[int]
) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text("".join(f'{{"step": {step}}}\n' for step in range(1, 7)) + tail)
    sink = JsonlSink(path, resume_step)
    sink.scalars(resume_step + 1, {"train/loss": 1.0})
    sink.close()
    assert [line["step"] for line in lines(path)] == [*kept, resume_step + 1]


PROGRESS = {
    "train/loss": 3.25,
    "time/samples_per_s": 1234.4,
    "progress/left_s": 75.2,
    "progress/steps_total": 100.0,
}


def test_the_console_tells_progress_validation_and_nothing_else(
    capsys: pytest.CaptureFixture[str],
) -> None:
    sink = ConsoleSink("run")
    sink.scalars(20, PROGRESS)
    sink.scalars(20, PROGRESS | {"policy/sampled_keep_frac": 0.5, "progress/left_s": 9.0})
    sink.scalars(20, {"time/save_s": 1.0})
    sink.scalars(20, {"validation/mrr@20": 0.125, "validation/hr@20": 0.5})
    policy = {"policy/keep_frac": 0.5, "policy/distinct_decisions": 7.0}
    sink.scalars(20, {"validation/mrr@20": 0.125, "validation/hr@20": 0.5} | policy)
    assert capsys.readouterr().out.splitlines() == [
        "[run] step 20/100  loss 3.2500  1234 samples/s  1m15s left",
        "[run] step 20/100  loss 3.2500  kept 0.50  1234 samples/s  9s left",
        "[run] step 20  validation MRR@20 0.1250  HR@20 0.5000",
        "[run] step 20  validation MRR@20 0.1250  HR@20 0.5000  kept 0.50  7 distinct decisions",
    ]


def test_several_sinks_get_everything(tmp_path: Path) -> None:
    first, second = (JsonlSink(tmp_path / name, 0) for name in ("a", "b"))
    both = SeveralSinks(first, second, NoSink())
    both.scalars(1, {"x": 1.0})
    both.decisions(1, KEEP_UL)
    both.close()
    assert lines(tmp_path / "a") == lines(tmp_path / "b") == [{"step": 1, "x": 1.0}]
    assert first.file.closed
    assert second.file.closed


@pytest.mark.parametrize("keep", [KEEP_UL, np.zeros((1, 1)), np.ones((3000, 128))])
def test_pictures_can_be_drawn_of_any_decisions(keep: np.ndarray) -> None:
    for draw in (keep_heat_map, kept_blocks_histogram, block_keep_rates):
        picture = figure_to_array(draw(keep))
        assert picture.dtype == np.uint8
        assert picture.shape[2] == 3
        assert picture.std() > 5, "an empty picture"


def test_pictures_show_the_decisions() -> None:
    one, other = (figure_to_array(keep_heat_map(keep)) for keep in (KEEP_UL, 1 - KEEP_UL))
    assert (one != other).any()


def test_a_report_is_read_back_from_tensorboard(tmp_path: Path) -> None:
    report = {"rows": [{"name": "skiprec", "mrr@20": 0.25, "keep_frac": None}]}
    write_evaluation(tmp_path, report, {"kept.png": kept_blocks_histogram(KEEP_UL)})
    events = read_events(tmp_path)
    assert [e.value for e in events.Scalars("evaluation_skiprec/mrr@20")] == [0.25]
    assert events.Tags()["images"] == ["evaluation/kept.png"]
    assert "evaluation_skiprec/keep_frac" not in events.Tags()["scalars"]
