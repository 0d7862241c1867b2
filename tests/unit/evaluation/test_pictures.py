"""Pictures have the decisions in them; how they look is for eyes."""

import numpy as np
import pytest

from skiprec.observability import pictures
from skiprec.observability.frontier_picture import PersonalPoint, draw_frontier
from skiprec.observability.pictures import (
    block_keep_rates,
    figure_to_array,
    keep_heat_map,
    kept_blocks_histogram,
    speed_against_accuracy,
)

DARK = (0x1F, 0x5F, 0x8B)


def dark_share(array: np.ndarray) -> float:
    return float((np.abs(array.astype(int) - DARK).max(axis=2) < 12).mean())


def test_heat_map_is_as_dark_as_the_keep_rate() -> None:
    draw = np.random.default_rng(0)
    shares = [
        dark_share(figure_to_array(keep_heat_map((draw.random((400, 16)) < rate).astype("f4"))))
        for rate in (0.0, 0.5, 1.0)
    ]
    assert shares[0] == 0
    assert shares[1] / shares[2] == pytest.approx(0.5, abs=0.06)


def test_heat_map_puts_who_keeps_most_first() -> None:
    keep_UL = np.tril(np.ones((64, 8), bool)[np.arange(64) % 9 != 8])
    image = keep_heat_map(keep_UL).axes[0].images[0].get_array()
    kept = np.asarray(image).sum(1)
    assert (np.diff(kept) <= 0).all()
    assert kept[0] > kept[-1]


@pytest.mark.parametrize("shape", [(1, 1), (3, 128), (pictures.MAX_ROWS + 7, 4)])
def test_any_shape_can_be_drawn(shape: tuple[int, int]) -> None:
    keep_UL = np.random.default_rng(0).random(shape) < 0.5
    for draw in (keep_heat_map, kept_blocks_histogram, block_keep_rates):
        array = figure_to_array(draw(keep_UL))
        assert array.dtype == np.uint8
        assert array.shape[2] == 3


def test_baselines_far_below_are_written_not_drawn() -> None:
    points = {"skiprec": (1.5, 0.10, [0.09, 0.11]), "fixed": (1.4, 0.09, [0.08, 0.1])}
    figure = speed_against_accuracy(points, {"popularity": 0.001}, "speedup")
    axes = figure.axes[0]
    assert axes.get_ylim()[0] > 0.05
    assert any("below: popularity 0.0010" in text.get_text() for text in axes.texts)


def test_what_is_above_the_frontier_is_drawn_above_its_line() -> None:
    sets = [(size, 0.01 * size, (0.01 * size - 0.001, 0.01 * size + 0.001)) for size in range(5)]
    curve: list[PersonalPoint] = [((2.5, 0.03, (0.02, 0.04)), (2.5, 0.005, (0.002, 0.008)))]
    served: PersonalPoint = ((3.5, 0.03, (0.02, 0.04)), (3.5, -0.005, (-0.008, -0.002)))
    figure = draw_frontier(sets, [0, 4], curve, served, {"random": (3.5, 0.015)}, "a title")
    above, below = figure.axes
    heights = {
        line.get_xdata()[0]: line.get_ydata()[0] for line in below.lines if line.get_marker() == "o"
    }
    assert heights == {2.5: 0.005, 3.5: -0.005}
    assert below.get_ylim()[0] < -0.008 < 0.008 < below.get_ylim()[1]
    # What is compared is in view, the embedding alone is not.
    assert 0 < above.get_ylim()[0] < 0.015
    legend = {text.get_text() for text in above.get_legend().get_texts()}
    assert {"fixed sets", "random"} < legend
    far = draw_frontier(sets, [0, 4], curve, served, {"random": (3.5, -1.0)}, "a title").axes[0]
    assert far.get_ylim()[0] > 0, "what is far below is named, and squeezes nothing"
    assert "random (-1.000, below)" in {text.get_text() for text in far.get_legend().get_texts()}
    bare = draw_frontier(sets, [0, 4], [], None, {}, "a title")
    assert figure_to_array(bare).shape == figure_to_array(figure).shape


def test_names_of_far_baselines_and_arms_leave_the_panel_its_room() -> None:
    """Texts beside the panel must not squeeze it, as long ones did in the report's picture."""
    points = {
        "full_backbone": (1.0, 0.11, (0.10, 0.12)),
        "exit_08": (2.0, 0.11, (0.10, 0.12)),
        "exit_02": (6.4, 0.109, (0.10, 0.118)),
    }
    lines = {"popularity": 0.039, "own_frequent": 0.025, "last_items": 0.018}
    figure = speed_against_accuracy(points, lines, "speedup end to end at batch 1")
    figure_to_array(figure)  # lays the panel out
    (axes,) = figure.axes
    assert axes.get_position().width > 0.8
