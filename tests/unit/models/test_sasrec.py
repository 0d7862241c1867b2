"""The SASRec+ blocks against their formulas in loops, and positions counted from the end."""

import pytest
import torch
from torch import Tensor

from skiprec.models.sasrec import (
    AuthorsSasRecBlock,
    EndPositions,
    SasRecBlock,
    end_positions,
    sasrec_plus_authors_blocks,
    sasrec_plus_blocks,
)
from tests.testkit.networks import build_network, model_config, random_batch
from tests.testkit.obvious_attention import (
    left_padded,
    obvious_attention,
    obvious_feed_forward,
    obvious_norm,
    output_and_gradients,
    stir,
)

WIDTH, POSITIONS, ROWS, NUM_HEADS = 6, 5, 7, 2  # the last two rows are padding only
each_form = pytest.mark.parametrize("form", [SasRecBlock, AuthorsSasRecBlock])


def obvious_block(block: SasRecBlock, x_TBD: Tensor, is_item_TB1: Tensor) -> Tensor:
    a_TBD = block.scale_1 * obvious_attention(
        block.attention, obvious_norm(x_TBD, block.norm_1), is_item_TB1
    )
    f_TBD = block.scale_2 * obvious_feed_forward(
        block.feed_forward, obvious_norm(x_TBD + a_TBD, block.norm_2)
    )
    return torch.where(is_item_TB1 > 0, a_TBD + f_TBD, 0.0)


def obvious_authors_block(block: SasRecBlock, x_TBD: Tensor, is_item_TB1: Tensor) -> Tensor:
    n_TBD = obvious_norm(x_TBD, block.norm_1)
    y_TBD = n_TBD + block.scale_1 * obvious_attention(block.attention, n_TBD, is_item_TB1)
    m_TBD = obvious_norm(y_TBD, block.norm_2)
    z_TBD = m_TBD + block.scale_2 * obvious_feed_forward(block.feed_forward, m_TBD)
    return torch.where(is_item_TB1 > 0, z_TBD - x_TBD, 0.0)


OBVIOUS = {SasRecBlock: obvious_block, AuthorsSasRecBlock: obvious_authors_block}


def make_block(form: type[SasRecBlock], dtype: torch.dtype = torch.float64) -> SasRecBlock:
    block = form(WIDTH, NUM_HEADS).to(dtype)
    stir(block, seed=3)
    return block


@each_form
@pytest.mark.parametrize("positions", [1, 2, POSITIONS])
def test_block_equals_the_loops_with_its_gradients(form: type[SasRecBlock], positions: int) -> None:
    """In float64, a difference below 1e-9 means the same formula."""
    block = make_block(form)
    x_TBD, is_item_TB1 = left_padded(positions, ROWS, WIDTH)
    x_TBD.requires_grad_()
    actual, expected = (
        output_and_gradients(block, function(block, x_TBD, is_item_TB1), x_TBD)
        for function in (form.__call__, OBVIOUS[form])
    )
    for one, other in zip(actual, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)
    assert expected[0].abs().max() > 1e-2
    assert torch.isfinite(expected[1]).all()


@each_form
def test_the_loops_tell_the_other_form_apart(form: type[SasRecBlock]) -> None:
    """The control of the comparison above."""
    other = next(function for key, function in OBVIOUS.items() if key is not form)
    block = make_block(form)
    x_TBD, is_item_TB1 = left_padded(POSITIONS, ROWS, WIDTH)
    out = block(x_TBD, is_item_TB1)
    assert not torch.allclose(out, other(block, x_TBD, is_item_TB1), atol=1e-2)


@each_form
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_padding_is_exactly_zero_and_nothing_is_nan(
    form: type[SasRecBlock], dtype: torch.dtype
) -> None:
    block = make_block(form, dtype)
    x_TBD, is_item_TB1 = left_padded(POSITIONS, ROWS, WIDTH, dtype=dtype)
    x_TBD.requires_grad_()
    values = output_and_gradients(block, block(x_TBD, is_item_TB1), x_TBD)
    assert all(torch.isfinite(value).all() for value in values)
    is_real = is_item_TB1.squeeze(-1) > 0
    assert not is_real[:, -1].any(), "a row of padding only"
    assert (values[0][~is_real] == 0).all()
    assert (values[0][is_real] != 0).all()


@each_form
def test_without_gradients_the_numbers_are_the_same_bits(form: type[SasRecBlock]) -> None:
    block = make_block(form, torch.float32)
    x_TBD, is_item_TB1 = left_padded(POSITIONS, ROWS, WIDTH, dtype=torch.float32)
    with_gradients = block(x_TBD, is_item_TB1)
    with torch.no_grad():
        assert torch.equal(block(x_TBD, is_item_TB1), with_gradients)


def test_at_first_only_the_clean_form_is_the_identity() -> None:
    x_TBD, is_item_TB1 = left_padded(POSITIONS, ROWS, WIDTH)
    for form in (SasRecBlock, AuthorsSasRecBlock):
        block = form(WIDTH, NUM_HEADS).double()
        block.reset_parameters(torch.Generator().manual_seed(0))
        assert [block.scale_1.shape, block.scale_2.shape] == [(1,), (1,)]
        assert block.scale_1.item() == block.scale_2.item() == 0.0
        branch_TBD = block(x_TBD, is_item_TB1)
        if form is SasRecBlock:
            assert (branch_TBD == 0).all()
        else:
            twice = obvious_norm(obvious_norm(x_TBD, block.norm_1), block.norm_2)
            torch.testing.assert_close(x_TBD + branch_TBD, twice * is_item_TB1)
            assert branch_TBD.abs().max() > 0.1


def test_positions_are_counted_from_the_end() -> None:
    positions = EndPositions(WIDTH, max_positions=8)
    positions.reset_parameters(torch.Generator().manual_seed(0))
    for length in (1, 5, 8):
        x_TBD, is_item_TB1 = left_padded(length, ROWS, WIDTH, dtype=torch.float32)
        out = positions(x_TBD, is_item_TB1)
        for t in range(length):
            for row in range(ROWS):
                from_the_end = length - 1 - t
                vector = positions.table_PD[8 - 1 - from_the_end]
                expected = x_TBD[t, row] + vector if t >= row else torch.zeros(WIDTH)
                assert torch.equal(out[t, row], expected)
    assert len(positions.table_PD.unique(dim=0)) == 8, "the control: no two positions are equal"


def test_a_window_beyond_the_table_says_what_to_set() -> None:
    network = build_network(model_config("sasrec_plus", max_positions=9))
    batch = random_batch(2, window=10)  # nine inputs
    assert network.embed_batch(batch).x_TBD.shape[0] == 9
    longer = random_batch(2, window=11)
    with pytest.raises(ValueError, match=r"max_positions=9 .*found 10; set model.max_positions=10"):
        network.embed_batch(longer)


@pytest.mark.parametrize("make", [sasrec_plus_blocks, sasrec_plus_authors_blocks])
def test_options_and_their_defaults(make) -> None:
    assert [block.attention.num_heads for block in make(model_config())] == [2] * 4
    assert [block.attention.num_heads for block in make(model_config(num_heads=4))] == [4] * 4
    assert len(end_positions(model_config()).table_PD) == 200
    assert len(end_positions(model_config(max_positions=7)).table_PD) == 7
    with pytest.raises(ValueError, match=r"model.width=8 does not divide into 3 heads"):
        make(model_config(num_heads=3))


def test_the_order_of_items_counts() -> None:
    """Attention ignores order: without positions, swapped items give the same last state."""
    network = build_network(model_config("sasrec_plus", num_blocks=1)).double().eval()
    batch = random_batch(1)
    swapped_BT = batch.input_BT[:, [1, 0, *range(2, 9)]]
    assert not torch.equal(swapped_BT, batch.input_BT)

    def last_states() -> list[Tensor]:
        histories = [network.embed(items, batch.key_B) for items in (batch.input_BT, swapped_BT)]
        return [network.encode(history, None, "dense")[-1] for history in histories]

    one, other = last_states()
    assert (one - other).abs().max() > 1e-6
    with torch.no_grad():
        network.entry.table_PD.zero_()
    torch.testing.assert_close(*last_states(), rtol=1e-12, atol=1e-12)
