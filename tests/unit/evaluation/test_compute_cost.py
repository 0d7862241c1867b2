"""FLOPs of what runs, against the sums that can be written down from the parameters' shapes."""

import numpy as np
import pytest
import torch
from torch import nn

from skiprec.evaluation.measure.compute_cost import PRODUCTS, count_flops, measure_cost
from skiprec.models.nextitnet import NextItNetBlock
from skiprec.policy.encoders import ENCODERS
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


def test_a_block_before_an_exit_that_adds_up_costs_its_readout_at_one_position() -> None:
    plain, added = (
        measure_cost(build_network(model_config(exits=(2, NUM_BLOCKS), **more)).eval(), T, k=5)
        for more in ({}, {"exit_readouts": True})
    )
    hidden = 2 * WIDTH
    # Two products; two LayerNorms (8) and the weights of one; relu; adding to the state.
    readout = 2 * 2 * WIDTH * hidden + (2 * 8 + 1 + 1) * WIDTH + hidden
    for place in range(NUM_BLOCKS):
        expected = readout if place + 1 in (2, NUM_BLOCKS) else 0
        assert added.block_L[place] - plain.block_L[place] == expected


def attention(num_heads: int, num_queries_of_bias: int) -> int:
    """Queries, keys, values; two products of all pairs; per pair scale, bias, softmax (5)."""
    projections = 3 * 2 * T * WIDTH * WIDTH
    pairs = 2 * 2 * T * T * WIDTH + (1 + 1 + 5) * num_heads * T * T
    return projections + pairs + num_queries_of_bias * T


def feed_forward() -> int:
    """Two products and a relu."""
    return 2 * 2 * T * WIDTH * WIDTH + T * WIDTH


@pytest.mark.parametrize("backbone", ["sasrec_plus", "sasrec_plus_authors"])
@pytest.mark.parametrize("num_heads", [1, 4])
def test_a_block_of_self_attention_costs_its_products(backbone: str, num_heads: int) -> None:
    """Beside them, for each element: two LayerNorms (8), and five with the stack's own addition.

    These are s1 * a, x + a, fused a + s2 * f, mask, x + branch; in the authors' form, two fused
    ones, z - x, mask, x + branch.
    """
    network = build_network(model_config(backbone, num_heads=num_heads)).eval()
    expected = attention(num_heads, T) + feed_forward() + (2 * 8 + 5) * T * WIDTH
    assert measure_cost(network, T, k=5).block_L == (expected,) * NUM_BLOCKS


def test_an_encoder_of_self_attention_costs_its_products() -> None:
    encoder = ENCODERS["attention"](WIDTH)
    x_TBD, is_item_TB1 = torch.ones(T, 1, WIDTH), torch.ones(T, 1, 1)
    # The mark of recency, two LayerNorms, two residual additions; the pool's mask and sum.
    per_element = 1 + 2 * 8 + 2 + 1 + 1
    pool_count = T + 1 + WIDTH  # the sum of the mask, its clamp, the division
    expected = attention(1, 1) + feed_forward() + per_element * T * WIDTH + pool_count
    with torch.no_grad():
        assert count_flops(lambda: encoder(x_TBD, is_item_TB1)) == expected


def test_an_encoder_with_a_gru_costs_its_products() -> None:
    encoder = ENCODERS["gru"](WIDTH)
    x_TBD, is_item_TB1 = torch.ones(T, 1, WIDTH), torch.ones(T, 1, 1)
    # r, z: addition, sigmoid; n: reset, addition, tanh; the new state: n + z * (h - n).
    recurrence = T * (2 * 2 * 3 * WIDTH * WIDTH + (2 + 2 + 3 + 3) * WIDTH)
    pool = 2 * T * WIDTH + T + 1 + WIDTH
    with torch.no_grad():
        assert count_flops(lambda: encoder(x_TBD, is_item_TB1)) == recurrence + pool


@pytest.mark.parametrize(("num_layers", "bias"), [(1, False), (2, False), (1, True)])
def test_cudnn_s_gru_costs_what_the_operators_of_a_cpu_cost(num_layers: int, bias: bool) -> None:
    gru, x = nn.GRU(WIDTH, WIDTH, num_layers, bias=bias), torch.ones(T, 3, WIDTH)
    state = torch.zeros(num_layers, 3, WIDTH)
    with torch.no_grad():
        on_cpu = count_flops(lambda: gru(x, state))
    weights = list(gru.parameters())
    cudnn_gru, cudnn_lstm = 3, 2
    arguments = (WIDTH, 0, num_layers, False, 0.0, False, False, [], None)
    formula = PRODUCTS["_cudnn_rnn"]
    assert formula(x, weights, 2, None, state, None, cudnn_gru, *arguments, out_val=()) == on_cpu
    with pytest.raises(ValueError, match="no FLOP formula for mode 2"):
        formula(x, weights, 2, None, state, state, cudnn_lstm, *arguments, out_val=())


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
