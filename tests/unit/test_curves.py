"""Convergence curves: what counts as time, how stages follow, when a level is reached."""

import json
from pathlib import Path

import pytest

from skiprec.observability.curves import (
    Curve,
    convergence_figure,
    convergence_table,
    depth_figure,
    read_curve,
    time_to_reach,
)


def log_line(step: int, seconds: float, loss: float) -> dict[str, float]:
    line = {"step": step, "train/loss": loss, "time/step_s": seconds}
    return line | {"progress/epoch": step / 100}


def validation(step: int, mrr: float) -> dict[str, float]:
    return {"step": step, "validation/mrr@20": mrr}


def write_metrics(folder: Path, lines: list[dict[str, float]]) -> Path:
    path = folder / "metrics.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def test_time_is_that_of_the_steps_between_log_lines(tmp_path: Path) -> None:
    """Each line has the seconds of a step since the line before."""
    lines = [
        log_line(1, 36.0, 9.0),
        log_line(51, 7.2, 8.0),
        validation(60, 0.1),
        {"step": 60, "time/save_s": 99.0},
        log_line(101, 3.6, 7.0),
        validation(101, 0.2),
    ]
    curve = read_curve(write_metrics(tmp_path, lines), "a")
    assert curve.loss == [
        (0.01, pytest.approx(0.01), 9.0),
        (0.51, pytest.approx(0.11), 8.0),
        (1.01, pytest.approx(0.16), 7.0),
    ]
    assert curve.mrr == [(0.51, pytest.approx(0.11), 0.1), (1.01, pytest.approx(0.16), 0.2)]
    assert curve.end == (1.01, pytest.approx(0.16))


FIRST = Curve("first", [(1.0, 0.5, 9.0), (2.0, 1.0, 8.0)], [(1.0, 0.5, 0.05), (2.0, 1.0, 0.10)])
SECOND = Curve("second", [(1.0, 0.25, 7.0)], [(1.0, 0.25, 0.12)])


def test_a_second_stage_goes_on_where_its_first_ended() -> None:
    assert SECOND.after(None) == SECOND
    assert SECOND.after(FIRST) == Curve("second", [(3.0, 1.25, 7.0)], [(3.0, 1.25, 0.12)])


def test_a_level_is_reached_at_the_first_validation_that_is_as_good() -> None:
    assert time_to_reach(FIRST, 0.05) == (1.0, 0.5)
    assert time_to_reach(FIRST, 0.06) == (2.0, 1.0)
    assert time_to_reach(FIRST, 0.11) is None


def test_the_table_counts_the_stages_before() -> None:
    weak = Curve("weak", [], [(1.0, 0.1, 0.02)])
    text = "\n".join(convergence_table([FIRST, SECOND.after(FIRST), weak], FIRST))
    assert "is 0.0990, 99 % of the best of first" in text
    assert "| first | 2.0 | 60 | 0.1000 |" in text
    assert "| second | 3.0 | 75 | 0.1200 |" in text
    assert "| weak | not reached |  | 0.0200 |" in text


def test_the_figure_has_every_curve_in_all_four_panels() -> None:
    figure = convergence_figure([FIRST, SECOND.after(FIRST)])
    assert [len(axes.lines) for axes in figure.axes] == [2, 2, 2, 2]
    by_epoch, by_hour = figure.axes[:2]
    assert list(by_epoch.lines[1].get_xdata()) == [3.0]
    assert list(by_hour.lines[1].get_xdata()) == [1.25]


def test_each_net_has_a_line_of_the_figure_with_its_name_shallow_ones_first() -> None:
    points = [("b", 8, 0.2, [0.1, 0.3]), ("a", 2, 0.1, [0.0, 0.2]), ("c", 8, 0.3, [0.2, 0.4])]
    (axes,) = depth_figure(points).axes
    assert [tick.get_text() for tick in axes.get_yticklabels()] == ["a", "b", "c"]
    dots = [line.get_xydata().tolist() for line in axes.lines if line.get_marker() == "o"]
    assert dots == [[[0.1, 0]], [[0.2, 1]], [[0.3, 2]]]
    bottom, top = axes.get_ylim()
    assert bottom > top
