"""Reports of headroom: sums by hand, depth that pays, and a control with nothing to find."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from skiprec.evaluation.headroom import block_sets
from skiprec.evaluation.headroom.block_sets import Features
from skiprec.evaluation.headroom.picture import draw_headroom
from skiprec.evaluation.headroom.report import SetsOfRows, headroom_report
from skiprec.evaluation.headroom.text import headroom_markdown


def two_blocks(num_rows: int = 400, seed: int = 0) -> SetsOfRows:
    """Half of the rows need the second block (rank 4 without it, 1 with it); it harms the others
    (1 without, 2 with). The one feature tells which are which."""
    needs_R = np.arange(num_rows) % 2 == 0
    rank_RS = np.where(needs_R[:, None], [4, 1], [1, 2]).astype(float)
    entropy_RS = np.log(rank_RS)
    user_R = (np.arange(num_rows) // 4).astype(np.int32)
    return SetsOfRows(sizes(2), plain(needs_R[:, None]), entropy_RS, rank_RS, user_R)


def plain(value_RF: np.ndarray) -> Features:
    """Numbers that all have the weight 1."""
    return Features(value_RF.astype(float), np.ones(value_RF.shape[1]))


def sizes(num_sets: int) -> np.ndarray:
    return np.arange(1, num_sets + 1)


CONDITIONS = {
    "name": "tiny",
    "trained_to_skip": False,
    "reads_after": None,
    "fit_split": "validation",
}


def test_splits_add_up_by_hand() -> None:
    report = headroom_report((1, 0), two_blocks(), two_blocks(), dict(CONDITIONS))
    json.dumps(report, allow_nan=False)
    assert [s["mrr@20"] for s in report["sets"]] == [0.625, 0.75]
    (size, every) = report["sizes"]
    # log 4 for one half, log 1/2 for the other.
    assert size["cost_nats"] == pytest.approx((np.log(4) - np.log(2)) / 2)
    assert size["correlation"] == pytest.approx(1)
    assert every["kept_blocks"] == 2
    (pair,) = report["pairs"]
    assert (pair["shallow"], pair["deep"], pair["kept_blocks"]) == (1, 2, 1.5)
    assert pair["mrr@20"] == 1.0
    assert pair["random_half"] == pytest.approx((0.625 + 0.75) / 2)
    assert pair["minus_random_half"]["mrr@20"] == pytest.approx(0.3125)
    assert pair["minus_frontier"]["mrr@20"] == pytest.approx(0.3125)
    for point in report["curve"]:
        assert point["kept_blocks"] in (1, 1.5, 2)
        gained = 0.3125 if point["kept_blocks"] == 1.5 else 0
        assert point["minus_frontier"]["mrr@20"] == pytest.approx(gained)
    gains = [point["minus_frontier"]["mrr@20"] for point in report["curve"]]
    assert report["hull"] == [1, 2]
    for control in ("minus_frontier", "minus_hull"):
        assert report["curve_mean"][control]["mrr@20"] == pytest.approx(np.mean(gains))
    assert max(gains) > 0.3
    assert "CAN PAY" in report["statements"][0]
    assert "never trained for skipping" in report["statements"][1]
    assert "100 % of the held-out rows" in report["statements"][2]
    text = headroom_markdown(report)
    assert " 1 / 2 | 1.0000 |" in text
    assert len(draw_headroom(report).axes) == 2


def test_exits_of_any_depth_add_up_by_hand() -> None:
    """The same two sets as exits of 2 and 8 blocks: the same accuracies at other mean depths."""
    exits = replace(two_blocks(), size_S=np.array([2, 8]))
    conditions = CONDITIONS | {"trained_to_skip": True, "reads_after": 2}
    report = headroom_report(None, exits, replace(exits, user_R=exits.user_R + 100), conditions)
    assert report["removed_first"] is None
    assert [(s["kept_blocks"], s["mrr@20"]) for s in report["sets"]] == [(2, 0.625), (8, 0.75)]
    assert [s["kept_blocks"] for s in report["sizes"]] == [2, 8]
    (pair,) = report["pairs"]
    assert (pair["kept_blocks"], pair["mrr@20"]) == (5, 1.0)
    assert pair["random_half"] == pytest.approx((0.625 + 0.75) / 2)
    assert report["hull"] == [2, 8]
    assert {point["kept_blocks"] for point in report["curve"]} <= {2, 5, 8}
    (verdict,) = report["statements"]
    assert "regression on the state at exit 2" in verdict
    assert "up to each exit" in headroom_markdown(report)


def test_a_dent_in_the_frontier_is_no_headroom() -> None:
    """The middle one of three sizes is worst for all, so it is hardly given to anyone.

    A mixture of 1 and 3 blocks is far above the set of 2. It is no better than a coin's, because
    the feature told the ranks of the rows of the fit alone.
    """
    draw = np.random.default_rng(0)
    num_rows = 2000
    feature_RF = draw.normal(0, 1, (num_rows, 3))
    rank_RS = np.tile([2.0, 20.0, 1.0], (num_rows, 1))
    user_R = np.arange(num_rows, dtype=np.int32)
    told_RS = rank_RS.copy()
    told_RS[feature_RF[:, 0] > 0, 0] = 3
    held = SetsOfRows(sizes(3), plain(feature_RF), np.log(rank_RS), rank_RS, user_R)
    fit = replace(held, rank_RS=told_RS)
    report = headroom_report((1, 2, 0), fit, held, dict(CONDITIONS))
    assert report["hull"] == [1, 3]
    middle = min(report["curve"], key=lambda point: abs(point["kept_blocks"] - 2))
    assert middle["minus_frontier"]["mrr@20"] > 0.3
    assert middle["minus_hull"]["mrr@20"] == pytest.approx(0, abs=0.02)
    assert report["curve_mean"]["minus_frontier"]["mrr@20_interval"][0] > 0.1
    assert "CAN PAY" not in report["statements"][0]


def test_control_costs_that_the_history_does_not_tell() -> None:
    """The same losses, each with another row's features: nothing correlates, and nothing pays."""
    draw = np.random.default_rng(3)
    fit, held = two_blocks(), two_blocks()
    features_RF = draw.normal(0, 1, (400, 5))
    fit = replace(fit, features=plain(features_RF))
    held = replace(held, features=plain(draw.normal(0, 1, (400, 5))), user_R=held.user_R + 100)
    report = headroom_report((1, 0), fit, held, dict(CONDITIONS) | {"trained_to_skip": True})
    low, high = report["sizes"][0]["correlation_interval"]
    assert low < 0 < high
    low, high = report["pairs"][0]["minus_random_half"]["mrr@20_interval"]
    assert low < 0 < high
    (verdict,) = report["statements"]
    assert "NOT SHOWN" in verdict


def test_the_prediction_is_of_lost_reciprocal_ranks_and_not_of_nats() -> None:
    """What costs a row the most nats is not what costs it a hit: two numbers, one for each."""
    draw = np.random.default_rng(4)
    num_rows = 800
    nats_R, hit_R = draw.integers(0, 2, num_rows), draw.integers(0, 2, num_rows)
    rank_RS = np.stack([np.where(hit_R == 1, 4, 1), np.ones(num_rows)], axis=1)
    entropy_RS = np.stack([3.0 * nats_R, np.zeros(num_rows)], axis=1)
    user_R = np.arange(num_rows, dtype=np.int32)
    rows = SetsOfRows(
        sizes(2), plain(np.stack([nats_R, hit_R], axis=1)), entropy_RS, rank_RS, user_R
    )
    report = headroom_report((1, 0), rows, rows, dict(CONDITIONS) | {"trained_to_skip": True})
    assert report["sizes"][0]["correlation"] == pytest.approx(1)
    gains = [point["minus_frontier"]["mrr@20"] for point in report["curve"]]
    # With the second block for the half whose target it brings to the top, no row loses anything.
    assert max(gains) == pytest.approx(0.375 / 2, abs=0.01)


def test_depth_that_pays_in_the_middle_of_the_lengths_is_found() -> None:
    """A straight line in the logarithm of the length cannot say so; the bends can."""
    length_R = torch.arange(1, 401) % 40 + 1
    needs_R = ((length_R > 8) & (length_R < 20)).numpy()
    rank_RS = np.stack([np.where(needs_R, 4, 1), np.ones(400)], axis=1)
    user_R = np.arange(400, dtype=np.int32)
    gains = {}
    for bends in (True, False):
        value_RF = block_sets._length_with_bends(length_R).numpy()
        features = plain(value_RF if bends else value_RF[:, :1])
        rows = SetsOfRows(sizes(2), features, np.log(rank_RS), rank_RS, user_R)
        report = headroom_report((1, 0), rows, rows, dict(CONDITIONS))
        gains[bends] = report["curve_mean"]["minus_frontier"]["mrr@20"]
    assert gains[True] > 2 * gains[False] > 0
