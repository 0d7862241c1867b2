"""FLOPs of what runs, against the sums that can be written down from the parameters' shapes."""

import numpy as np
import pytest
import torch
from torch import nn

from skiprec.evaluation.compute_cost import count_flops, measure_cost
from skiprec.models.nextitnet import NextItNetBlock
from tests.testkit.networks import (
    BACKBONE_NAMES,
    NUM_BLOCKS,
    NUM_ITEMS,
    POLICY_NAMES,
    WIDTH,
    WINDOW,
    build_network,
    model_config,
    policy_config,
)

T = WINDOW - 1


def convolution(dilation: int) -> int:
    """Two for each multiply and add, of the taps whose inputs lie in the window at all."""
    return sum(2 * max(0, T - tap * dilation) * WIDTH * WIDTH for tap in range(3))


def test_a_block_costs_its_products_that_reach_into_the_window() -> None:
    network = build_network(model_config("nextitnet_plus"), policy_config("gumbel")).eval()
    cost = measure_cost(network, T, k=5)
    for block, flops in zip(network.stack.blocks, cost.block_L, strict=True):
        assert isinstance(block, NextItNetBlock)
        products = convolution(block.conv_1.dilation) + convolution(block.conv_2.dilation)
        # Per element: twice LayerNorm (8), relu, mask; then the scale, and adding the branch.
        assert flops == products + (2 * (8 + 1 + 1) + 2) * T * WIDTH
    untrimmed = 2 * 2 * 3 * WIDTH * WIDTH * T
    assert cost.block_L[1] < untrimmed  # dilations 4 and 8 of 9 positions
    assert cost.head >= 2 * WIDTH * NUM_ITEMS


@pytest.mark.parametrize("backbone", BACKBONE_NAMES)
@pytest.mark.parametrize("policy", POLICY_NAMES)
def test_every_registered_network_can_be_counted(backbone: str, policy: str) -> None:
    network = build_network(model_config(backbone), policy_config(policy)).eval()
    cost = measure_cost(network, T, k=5)
    assert len(cost.block_L) == NUM_BLOCKS
    assert all(flops > 2 * WIDTH * WIDTH * T for flops in cost.block_L)
    keep_RL = np.array([[True] * NUM_BLOCKS, [True] + [False] * (NUM_BLOCKS - 1)])
    every, one = cost.rows(keep_RL, with_policy=True)
    assert every == cost.full + cost.policy
    assert every - one == sum(cost.block_L[1:])
    assert cost.rows(keep_RL, with_policy=False)[0] == cost.full


def test_a_policy_as_wide_as_the_backbone_costs_more_than_a_slim_one() -> None:
    costs = [
        measure_cost(
            build_network(model_config("nextitnet"), policy_config("gumbel", width=width)).eval(),
            T,
            k=5,
        ).policy
        for width in (2, WIDTH)
    ]
    assert 0 < costs[0] < costs[1]


@pytest.mark.parametrize(
    ("run", "flops"),
    [
        (lambda: torch.ones(3, 4) @ torch.ones(4, 5), 2 * 3 * 4 * 5),
        (lambda: torch.ones(2, 3).addmm_(torch.ones(2, 4), torch.ones(4, 3)), 2 * 2 * 4 * 3),
        (lambda: torch.ones(3, 4).relu_().t().contiguous(), 12),
        (lambda: torch.ones(3, 4).index_select(0, torch.tensor([0, 2])), 0),
    ],
)
def test_single_operators(run: object, flops: int) -> None:
    assert count_flops(run) == flops  # type: ignore[arg-type]


def test_a_product_without_a_formula_is_an_error_not_a_zero() -> None:
    lstm, x = nn.LSTM(4, 4), torch.ones(3, 1, 4)
    with torch.no_grad(), pytest.raises(ValueError, match="no FLOP formula for operator"):
        count_flops(lambda: lstm(x))
