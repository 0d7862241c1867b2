"""Attention against loops over rows, positions and heads, and the masking of keys."""

import pytest
import torch

from skiprec.attention import FeedForward, SelfAttention, attention_bias
from tests.testkit.obvious_attention import (
    left_padded,
    obvious_attention,
    obvious_feed_forward,
    output_and_gradients,
    stir,
)

WIDTH, POSITIONS, ROWS = 6, 5, 4


def make_attention(num_heads: int, is_causal: bool, dtype=torch.float64) -> SelfAttention:
    attention = SelfAttention(WIDTH, num_heads, is_causal).to(dtype)
    stir(attention, seed=num_heads)
    return attention


@pytest.mark.parametrize("num_heads", [1, 2, 3, 6])
@pytest.mark.parametrize("is_causal", [True, False])
@pytest.mark.parametrize("positions", [1, 2, POSITIONS])
def test_attention_equals_the_loops_with_its_gradients(
    num_heads: int, is_causal: bool, positions: int
) -> None:
    attention = make_attention(num_heads, is_causal)
    x_TBD, is_item_TB1 = left_padded(positions, ROWS, WIDTH)
    x_TBD.requires_grad_()
    actual, expected = (
        output_and_gradients(attention, out, x_TBD)
        for out in (
            attention(x_TBD, is_item_TB1) * is_item_TB1,
            obvious_attention(attention, x_TBD, is_item_TB1),
        )
    )
    for one, other in zip(actual, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-10)
    assert expected[0].abs().max() > 1e-2


def test_the_loops_tell_a_wrong_mask_and_wrong_heads_apart() -> None:
    """The control of the comparison above."""
    attention = make_attention(2, is_causal=True)
    x_TBD, is_item_TB1 = left_padded(POSITIONS, ROWS, WIDTH)
    x_TBD = x_TBD + 1 - is_item_TB1  # a LayerNorm's bias: padding is not zero here
    expected = obvious_attention(attention, x_TBD, is_item_TB1)
    sees_padding = attention(x_TBD, torch.ones_like(is_item_TB1)) * is_item_TB1
    torch.testing.assert_close(attention(x_TBD, is_item_TB1) * is_item_TB1, expected)
    torch.testing.assert_close(sees_padding[:, 0], expected[:, 0])
    assert not torch.allclose(sees_padding[:, 1:], expected[:, 1:], atol=1e-2)
    attention.num_heads = 3
    assert not torch.allclose(attention(x_TBD, is_item_TB1) * is_item_TB1, expected, atol=1e-2)
    attention.num_heads, attention.is_causal = 2, False
    assert not torch.allclose(attention(x_TBD, is_item_TB1) * is_item_TB1, expected, atol=1e-2)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("is_causal", [True, False])
def test_what_stands_at_padding_changes_no_bit(dtype: torch.dtype, is_causal: bool) -> None:
    attention = make_attention(2, is_causal, dtype)
    x_TBD, is_item_TB1 = left_padded(POSITIONS, ROWS, WIDTH, dtype=dtype)
    noisy = x_TBD + 50 * (1 - is_item_TB1)
    is_real = is_item_TB1.squeeze(-1) > 0
    before, after = (attention(value, is_item_TB1) for value in (x_TBD, noisy))
    assert torch.equal(after[is_real], before[is_real])
    assert torch.isfinite(after).all()
    assert not torch.equal(after, before), "the control: the output at padding does change"


@pytest.mark.parametrize("is_causal", [True, False])
def test_a_row_of_padding_alone_is_finite_in_both_directions(is_causal: bool) -> None:
    attention = make_attention(2, is_causal)
    x_TBD = torch.randn(
        POSITIONS, 2, WIDTH, dtype=torch.float64, generator=torch.Generator().manual_seed(0)
    ).requires_grad_()
    out = attention(x_TBD, torch.zeros(POSITIONS, 2, 1, dtype=torch.float64))
    assert all(torch.isfinite(value).all() for value in output_and_gradients(attention, out, x_TBD))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_bias_is_exactly_zero_where_a_query_may_look(dtype: torch.dtype) -> None:
    _, is_item_TB1 = left_padded(POSITIONS, ROWS, WIDTH, dtype=dtype)
    causal, free = (attention_bias(is_item_TB1, is_causal) for is_causal in (True, False))
    assert causal.dtype == dtype
    assert causal.shape == (ROWS, 1, POSITIONS, POSITIONS)
    assert free.shape == (ROWS, 1, 1, POSITIONS)
    for row in range(ROWS):
        for key in range(POSITIONS):
            assert (free[row, 0, 0, key] == 0) == (key >= row)
            assert torch.isfinite(free[row, 0, 0, key])
            for query in range(POSITIONS):
                value = causal[row, 0, query, key]
                assert (value == 0) == (row <= key <= query)
                assert torch.isfinite(value) == (key <= query)
    assert free.min() < -1e9


def test_training_after_inference_mode_finds_no_inference_tensor() -> None:
    """The constant part of the bias is cached, whether inference or training comes first."""
    positions = 13  # a length that no other test has
    attention = make_attention(2, is_causal=True)
    x_TBD, is_item_TB1 = left_padded(positions, ROWS, WIDTH)
    with torch.inference_mode():
        before = attention(x_TBD, is_item_TB1)
    out = attention(x_TBD.requires_grad_(), is_item_TB1)
    out.sum().backward()
    assert torch.equal(out, before)
    assert attention.weight_DE.grad is not None


def test_feed_forward_equals_the_formula_with_its_gradients() -> None:
    net = FeedForward(WIDTH).double()
    stir(net, seed=1)
    x_TBD, _ = left_padded(POSITIONS, ROWS, WIDTH)
    x_TBD.requires_grad_()
    actual = output_and_gradients(net, net(x_TBD), x_TBD)
    expected = output_and_gradients(net, obvious_feed_forward(net, x_TBD), x_TBD)
    for one, other in zip(actual, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-10)
    assert all(value.abs().max() > 0 for value in expected)


def test_first_weights_have_the_variance_of_xavier_s() -> None:
    width = 64
    for module, count in ((SelfAttention(width, 2, True), 1), (FeedForward(width), 2)):
        module.reset_parameters(torch.Generator().manual_seed(0))
        products = [weight for weight in module.parameters() if weight.dim() == 2]
        assert len(products) == count
        for weight in products:
            assert weight.std().item() == pytest.approx((2 / (width + width)) ** 0.5, rel=0.03)
        biases = [value for value in module.parameters() if value.dim() == 1]
        assert all((bias == 0).all() for bias in biases)
