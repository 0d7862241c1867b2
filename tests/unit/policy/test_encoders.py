"""The encoders of policies against their formulas in loops.

`test_policies.py` checks properties of all encoders: padding, other rows, empty histories.
"""

import pytest
import torch
from torch import Tensor, nn

from skiprec.policy.encoders import ENCODERS, AttentionEncoder, GruEncoder, pool_history
from tests.testkit.obvious_attention import (
    left_padded,
    obvious_attention,
    obvious_feed_forward,
    obvious_norm,
    output_and_gradients,
    stir,
)

WIDTH, POSITIONS, ROWS = 6, 5, 7  # the last two rows are padding only


def obvious_pool(x_TBD: Tensor, is_item_TB1: Tensor) -> Tensor:
    rows = []
    for row in range(x_TBD.shape[1]):
        real = [x_TBD[t, row] for t in range(len(x_TBD)) if is_item_TB1[t, row, 0] > 0]
        rows.append(sum(real) / len(real) if real else torch.zeros_like(x_TBD[0, row]))
    return torch.stack(rows)


def obvious_gru(encoder: GruEncoder, x_TBD: Tensor, is_item_TB1: Tensor) -> Tensor:
    """The recurrence of each row, from its first real position and a state of zero."""
    w_r, w_z, w_n = encoder.gru.weight_ih_l0.chunk(3)
    u_r, u_z, u_n = encoder.gru.weight_hh_l0.chunk(3)
    state_TBD = []
    for t in range(len(x_TBD)):
        states = []
        for row in range(x_TBD.shape[1]):
            x = x_TBD[t, row]
            h = state_TBD[-1][row] if state_TBD else torch.zeros_like(x)
            r = torch.sigmoid(w_r @ x + u_r @ h)
            z = torch.sigmoid(w_z @ x + u_z @ h)
            n = torch.tanh(w_n @ x + r * (u_n @ h))
            new = (1 - z) * n + z * h
            states.append(new if is_item_TB1[t, row, 0] > 0 else torch.zeros_like(x))
        state_TBD.append(torch.stack(states))
    return obvious_pool(torch.stack(state_TBD), is_item_TB1)


def obvious_attention_encoder(
    encoder: AttentionEncoder, x_TBD: Tensor, is_item_TB1: Tensor
) -> Tensor:
    T = len(x_TBD)
    x_TBD = torch.stack([x_TBD[t] + encoder.recent_D / (T - t) for t in range(T)])
    normed = obvious_norm(x_TBD, encoder.norm_1)
    x_TBD = x_TBD + obvious_attention(encoder.attention, normed, is_item_TB1)
    normed = obvious_norm(x_TBD, encoder.norm_2)
    x_TBD = x_TBD + obvious_feed_forward(encoder.feed_forward, normed)
    return obvious_pool(x_TBD, is_item_TB1)


OBVIOUS = {"gru": obvious_gru, "attention": obvious_attention_encoder}
each_formula = pytest.mark.parametrize("name", sorted(OBVIOUS))
each_encoder = pytest.mark.parametrize("name", sorted(ENCODERS))


def make_encoder(name: str) -> nn.Module:
    encoder = ENCODERS[name](WIDTH).double()
    stir(encoder, seed=4)
    return encoder


@each_formula
@pytest.mark.parametrize("positions", [1, 2, POSITIONS])
def test_encoder_equals_the_loops_with_its_gradients(name: str, positions: int) -> None:
    """In float64, a difference below 1e-9 means the same formula. The input is zero at padding."""
    encoder = make_encoder(name)
    x_TBD, is_item_TB1 = left_padded(positions, ROWS, WIDTH)
    x_TBD.requires_grad_()
    actual, expected = (
        output_and_gradients(encoder, function(encoder, x_TBD * is_item_TB1, is_item_TB1), x_TBD)
        for function in (nn.Module.__call__, OBVIOUS[name])
    )
    for one, other in zip(actual, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)
    assert expected[0].abs().max() > 1e-2


@each_formula
def test_the_loops_tell_a_hidden_item_apart(name: str) -> None:
    """The control of the comparison above."""
    encoder = make_encoder(name)
    x_TBD, is_item_TB1 = left_padded(POSITIONS, 1, WIDTH)
    expected = OBVIOUS[name](encoder, x_TBD, is_item_TB1)
    is_item_TB1[0] = 0
    assert not torch.allclose(encoder(x_TBD * is_item_TB1, is_item_TB1), expected, atol=1e-2)


@each_encoder
def test_an_empty_history_is_finite_and_so_are_its_gradients(name: str) -> None:
    encoder = make_encoder(name)
    x_TBD = torch.zeros(POSITIONS, 2, WIDTH, dtype=torch.float64, requires_grad=True)
    out = encoder(x_TBD, torch.zeros(POSITIONS, 2, 1, dtype=torch.float64))
    assert torch.isfinite(out).all()
    assert all(torch.isfinite(value).all() for value in output_and_gradients(encoder, out, x_TBD))


def test_a_gru_without_bias_stays_at_zero_through_padding() -> None:
    """The state is exactly zero. With a bias it would not be, so the encoder has none."""
    x_TBD, is_item_TB1 = left_padded(POSITIONS, ROWS, WIDTH, dtype=torch.float32)
    is_padding = is_item_TB1.squeeze(-1) == 0
    for bias in (False, True):
        gru = nn.GRU(WIDTH, WIDTH, bias=bias)
        stir(gru, seed=5)
        assert ((gru(x_TBD)[0][is_padding] == 0).all()) == (not bias)
    assert all("bias" not in name for name, _ in GruEncoder(WIDTH).named_parameters())


@each_formula
def test_the_order_of_items_counts(name: str) -> None:
    encoder = make_encoder(name)
    x_TBD, is_item_TB1 = left_padded(POSITIONS, 1, WIDTH)
    outputs = [encoder(x, is_item_TB1) for x in (x_TBD, x_TBD.flip(0))]
    assert (outputs[0] - outputs[1]).abs().max() > 1e-2


def test_without_its_mark_of_recency_attention_knows_no_order() -> None:
    """The control: only the mark of recency makes attention depend on the order."""
    encoder = make_encoder("attention")
    with torch.no_grad():
        encoder.recent_D.zero_()
    x_TBD, is_item_TB1 = left_padded(POSITIONS, 1, WIDTH)
    torch.testing.assert_close(encoder(x_TBD, is_item_TB1), encoder(x_TBD.flip(0), is_item_TB1))


@each_encoder
def test_first_weights_are_a_function_of_the_generator(name: str) -> None:
    def weights(seed: int) -> list[Tensor]:
        encoder = ENCODERS[name](WIDTH)
        encoder.reset_parameters(torch.Generator().manual_seed(seed))
        return list(encoder.parameters())

    assert all(map(torch.equal, weights(0), weights(0)))
    drawn = [
        (one, other) for one, other in zip(weights(0), weights(1), strict=True) if one.dim() > 1
    ]
    assert drawn
    assert not any(torch.equal(one, other) for one, other in drawn)


def test_the_pool_is_the_mean_of_real_positions() -> None:
    x_TBD, is_item_TB1 = left_padded(POSITIONS, ROWS, WIDTH)
    noisy = x_TBD + 1 - is_item_TB1
    expected = obvious_pool(x_TBD, is_item_TB1)
    torch.testing.assert_close(pool_history(noisy, is_item_TB1), expected)
    assert (expected[-1] == 0).all()
    assert not torch.allclose(noisy.mean(0), expected), "the control: a mean that includes padding"
