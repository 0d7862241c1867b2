"""Sizes, the coin between two of them, and the learned curve, against plain enumeration."""

import itertools

import numpy as np
import pytest
import torch

from skiprec.evaluation.measure.arms import Decided
from skiprec.evaluation.measure.frontier import MAX_SIZES, bracket, frontier_sizes, hull_sizes
from skiprec.evaluation.measure.operating_points import operating_points
from skiprec.policy.build import build_policy
from skiprec.policy.knobs import NUM_POINTS
from skiprec.policy.prices import choices_by_price
from tests.testkit.networks import NUM_BLOCKS, NUM_ITEMS, WIDTH, policy_config


def test_every_size_is_scored_where_there_are_few() -> None:
    assert frontier_sizes(4, 2.2) == (0, 1, 2, 3)
    assert frontier_sizes(17, 2.2) == tuple(range(17))


@pytest.mark.parametrize("mean", [0.0, 0.4, 7.0, 20.5, 62.9, 63.5, 64.0])
def test_of_many_blocks_sizes_are_spread_and_two_lie_around_the_mean(mean: float) -> None:
    sizes = frontier_sizes(64, mean)
    assert list(sizes) == sorted(set(sizes))
    assert sizes[:2] == (0, 1)
    assert sizes[-1] == 63
    assert len(sizes) <= MAX_SIZES + 3
    assert max(np.diff(sizes)) <= 5
    at = bracket([*sizes, 64], mean)
    assert at.above - at.below <= 1


def test_a_coin_between_two_sizes_has_the_mean_asked_for() -> None:
    at = bracket([0, 2, 5, 8], 3.5)
    assert (at.below, at.above, at.weight) == (2, 5, 0.5)
    assert bracket([0, 2, 5, 8], 2.0) == bracket([2], 2.0)
    with pytest.raises(ValueError, match="lies outside of the scored sizes"):
        bracket([1, 2], 2.5)
    # Against real coins: many rows, each by the set that its coin shows.
    draw = np.random.default_rng(0)
    at = bracket([1, 2, 3], 2.3)
    value_2R = draw.random((2, 40_000))
    coin_R = draw.random(40_000) < at.weight
    size_R = np.where(coin_R, at.above, at.below)
    tossed_R = np.where(coin_R, value_2R[1], value_2R[0])
    assert size_R.mean() == pytest.approx(2.3, abs=0.01)
    assert tossed_R.mean() == pytest.approx(at.mix(*value_2R).mean(), abs=0.01)


@pytest.mark.parametrize("seed", range(8))
def test_no_coin_between_two_sizes_reaches_more_than_the_hull(seed: int) -> None:
    draw = np.random.default_rng(seed)
    sizes = sorted(draw.choice(30, 9, replace=False).tolist())
    value_of = {size: float(draw.random()) for size in sizes}
    hull = hull_sizes(value_of)
    assert set(hull) <= set(sizes)
    for mean in np.linspace(sizes[0], sizes[-1], 37):
        at = bracket(hull, mean)
        reached = (1 - at.weight) * value_of[at.below] + at.weight * value_of[at.above]
        best = max(
            np.interp(mean, (low, high), (value_of[low], value_of[high]))
            for low, high in itertools.combinations(sizes, 2)
            if low <= mean <= high
        )
        assert reached == pytest.approx(best)
    assert hull_sizes({3: 0.5}) == [3]
    assert hull_sizes({1: 0.0, 2: 1.0, 3: 2.0}) == [1, 3], "a size on the line adds nothing"


def test_points_of_a_priced_policy_spread_over_the_range_of_its_nest() -> None:
    policy = build_policy(policy_config("cost"), NUM_ITEMS, WIDTH, NUM_BLOCKS)
    policy.price_1.fill_(0.25)
    cost_RM = np.random.default_rng(0).normal(0, 1, (300, 3)).astype(np.float32)
    cost_RM -= cost_RM[:, -1:]
    keep_RL = np.ones((300, NUM_BLOCKS), bool)
    knob, arms = operating_points(policy, Decided(keep_RL, cost_RM))
    assert knob is not None
    assert (knob.knob, knob.served) == ("price", 0.25)
    assert [arm.name for arm in arms] == [f"learned_0{i}" for i in range(NUM_POINTS)]
    shares = [keep.mean() for keep in arms.values()]
    assert (np.diff(shares) > 0).all()
    # Between 1 and 2 of 4 blocks there are as many as between 2 and 4.
    between = np.linspace(0, 2, NUM_POINTS + 2)[1:-1]
    wanted = np.where(between < 1, 1 + between, 2 * between) / 4
    assert (wanted < 0.5).sum() == (wanted > 0.5).sum() == NUM_POINTS / 2
    assert np.abs(shares - wanted).max() < 0.01
    for price, keep_RL in zip(knob.settings, arms.values(), strict=True):
        for row, kept in enumerate(keep_RL):
            total = [cost_RM[row, m] + price * size / 4 for m, size in enumerate((1, 2, 4))]
            assert kept.tolist() == [block < (1, 2, 4)[np.argmin(total)] for block in range(4)]


@pytest.mark.parametrize("kind", ["gumbel", "reinforce"])
def test_points_of_a_policy_with_probabilities_are_thresholds(kind: str) -> None:
    policy = build_policy(policy_config(kind), NUM_ITEMS, WIDTH, NUM_BLOCKS)
    prob_RL = np.random.default_rng(0).random((300, NUM_BLOCKS), np.float32)
    knob, arms = operating_points(policy, Decided(prob_RL > 0.5, prob_RL))
    assert knob is not None
    assert (knob.knob, knob.served) == ("threshold", 0.5)
    shares = [keep.mean() for keep in arms.values()]
    assert shares == pytest.approx(np.linspace(0, 1, NUM_POINTS + 2)[1:-1], abs=0.005)
    for looser, stricter in itertools.pairwise(list(arms.values())[::-1]):
        assert (looser >= stricter).all(), "a lower threshold keeps what a higher one keeps"


def test_settings_that_decide_alike_are_one_and_a_control_has_none() -> None:
    policy = build_policy(policy_config("cost"), NUM_ITEMS, WIDTH, NUM_BLOCKS)
    same_RM = np.tile(np.float32([0.3, 0.1, 0.0]), (50, 1))
    knob, arms = operating_points(policy, Decided(np.ones((50, NUM_BLOCKS), bool), same_RM))
    assert knob is not None
    assert len(arms) == len(knob.settings) == 2, "all rows alike: one block, or two"
    control = build_policy(policy_config("random"), NUM_ITEMS, WIDTH, NUM_BLOCKS)
    assert operating_points(control, Decided(np.ones((5, 4), bool), None)) == (None, {})


def test_choices_fall_as_the_price_rises() -> None:
    cost_RM = torch.tensor([[2.0, 0.5, 0.0], [0.1, 0.05, 0.0]])
    found = choices_by_price(cost_RM, torch.tensor([2, 4, 16]), NUM_POINTS)
    prices = [price for price, _ in found]
    assert prices == sorted(prices, reverse=True)
    sizes = np.array([size_R.tolist() for _, size_R in found])
    assert (np.diff(sizes, axis=0) >= 0).all()
    assert (sizes[:, 1] <= sizes[:, 0]).all(), "whom fewer blocks cost less gets no more of them"
