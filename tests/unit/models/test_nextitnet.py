"""The NextItNet block against the formula of the paper in plain operations of torch."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from skiprec.config.model import ModelConfig
from skiprec.layers import CausalConv, MaskedNormRelu, _NormReluMask, _ShiftedProducts
from skiprec.models.nextitnet import NextItNetBlock, nextitnet_blocks, nextitnet_plus_blocks
from tests.testkit.networks import NUM_ITEMS, build_network

WIDTH, POSITIONS, ROWS = 6, 7, 4


def obvious_conv(x_TBD: Tensor, conv: CausalConv) -> Tensor:
    """Conv1d over [B, D, T] with (k - 1) * dilation zeros on the left."""
    x_BDT = F.pad(x_TBD.permute(1, 2, 0), (2 * conv.dilation, 0))
    weight_EDK = conv.weight_KDE.permute(2, 1, 0)
    out = F.conv1d(x_BDT, weight_EDK, conv.bias_E, dilation=conv.dilation)
    return out.permute(2, 0, 1)


def obvious_norm(x_TBD: Tensor, norm: MaskedNormRelu, is_item_TB1: Tensor) -> Tensor:
    normed = F.layer_norm(x_TBD, (x_TBD.shape[-1],), norm.weight_D, norm.bias_D, 1e-5)
    return torch.where(is_item_TB1 > 0, F.relu(normed), 0.0)


def obvious_block(block: NextItNetBlock, x_TBD: Tensor, is_item_TB1: Tensor) -> Tensor:
    h_TBD = obvious_norm(obvious_conv(x_TBD, block.conv_1), block.norm_1, is_item_TB1)
    h_TBD = obvious_norm(obvious_conv(h_TBD, block.conv_2), block.norm_2, is_item_TB1)
    return h_TBD if block.scale is None else block.scale * h_TBD


def make_block(dilation: int, learn_scale: bool) -> NextItNetBlock:
    block = NextItNetBlock(WIDTH, dilation, learn_scale).double()
    generator = torch.Generator().manual_seed(dilation)
    with torch.no_grad():
        for parameter in block.parameters():
            noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            parameter.copy_(0.5 * noise)
    return block


def inputs(positions: int = POSITIONS) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(9)
    is_item = torch.ones(positions, ROWS, 1, dtype=torch.float64)
    for row in range(ROWS):
        is_item[: min(row, positions), row] = 0
    x = torch.randn(positions, ROWS, WIDTH, dtype=torch.float64, generator=generator) * is_item
    return x, is_item


@pytest.mark.parametrize("learn_scale", [True, False])
@pytest.mark.parametrize(
    ("dilation", "positions"),
    [(1, 7), (2, 7), (3, 7), (4, 7), (8, 7), (1, 1), (1, 2), (4, 3)],
    ids=lambda value: str(value),
)
def test_block_equals_the_formula_with_its_gradients(
    dilation: int, positions: int, learn_scale: bool
) -> None:
    """Some windows are shorter than the dilation. In float64, 1e-10 means the same formula."""
    results = []
    for function in (NextItNetBlock.__call__, obvious_block):
        block = make_block(dilation, learn_scale)
        x_TBD, is_item_TB1 = inputs(positions)
        x_TBD.requires_grad_()
        out = function(block, x_TBD, is_item_TB1)
        (
            out * torch.linspace(-1, 2, out.numel(), dtype=torch.float64).view_as(out)
        ).sum().backward()
        results.append([out, x_TBD.grad, *[p.grad for p in block.parameters()]])
    for actual, expected in zip(*results, strict=True):
        torch.testing.assert_close(actual, expected, rtol=1e-10, atol=1e-10)
    assert results[1][0].abs().max() > 1e-3


def test_the_formula_tells_a_wrong_dilation_apart() -> None:
    """The control of the comparison above."""
    block = make_block(2, learn_scale=True)
    x_TBD, is_item_TB1 = inputs()
    expected = obvious_block(block, x_TBD, is_item_TB1)
    block.conv_2.dilation = 3
    assert not torch.allclose(block(x_TBD, is_item_TB1), expected, atol=1e-3)


@pytest.mark.parametrize("dilation", [1, 3, 6, 7, 20])
def test_gradcheck_of_the_convolution(dilation: int) -> None:
    x_TBD, _ = inputs()
    generator = torch.Generator().manual_seed(1)
    weight = torch.randn(3, WIDTH, 5, dtype=torch.float64, generator=generator)
    bias = torch.randn(5, dtype=torch.float64, generator=generator)
    arguments = [value.requires_grad_() for value in (x_TBD, weight, bias)]
    torch.autograd.gradcheck(_ShiftedProducts.apply, (*arguments, dilation))


def test_gradcheck_of_norm_relu_mask() -> None:
    x_TBD, is_item_TB1 = inputs()
    generator = torch.Generator().manual_seed(2)
    x_TBD = x_TBD + torch.randn(x_TBD.shape, dtype=torch.float64, generator=generator)
    weight = torch.randn(WIDTH, dtype=torch.float64, generator=generator)
    bias = torch.randn(WIDTH, dtype=torch.float64, generator=generator)
    arguments = [value.requires_grad_() for value in (x_TBD, weight, bias)]
    torch.autograd.gradcheck(_NormReluMask.apply, (*arguments, is_item_TB1))


@pytest.mark.parametrize("dilation", [1, 4])
def test_without_gradients_the_numbers_are_the_same_bits(dilation: int) -> None:
    """Serving and training run different code."""
    block = make_block(dilation, learn_scale=True).float()
    x_TBD, is_item_TB1 = (value.float() for value in inputs())
    with_gradients = block(x_TBD, is_item_TB1)
    with torch.no_grad():
        assert torch.equal(block(x_TBD, is_item_TB1), with_gradients)


def test_a_transposed_input_is_read_by_its_values() -> None:
    """The products need views of contiguous memory, so other layouts are copied first."""
    conv = make_block(2, learn_scale=False).conv_1
    x_TBD, _ = inputs()
    strided = x_TBD.transpose(0, 1).contiguous().transpose(0, 1)
    assert not strided.is_contiguous()
    assert torch.equal(conv(strided), conv(x_TBD))
    with torch.no_grad():
        assert torch.equal(conv(strided), conv(x_TBD))


def test_no_rows_give_zero_gradients() -> None:
    block = make_block(1, learn_scale=True)
    x_TBD = torch.zeros(POSITIONS, 0, WIDTH, dtype=torch.float64)
    block(x_TBD, torch.zeros(POSITIONS, 0, 1, dtype=torch.float64)).sum().backward()
    for name, parameter in block.named_parameters():
        assert parameter.grad is not None, name
        assert (parameter.grad == 0).all(), name


def test_dilations_are_a_cycle_over_blocks_and_double_in_the_second_convolution() -> None:
    blocks = nextitnet_blocks(ModelConfig(num_blocks=5, width=4, dilations=(1, 4)))
    assert [block.conv_1.dilation for block in blocks] == [1, 4, 1, 4, 1]
    assert [block.conv_2.dilation for block in blocks] == [2, 8, 2, 8, 2]


def test_only_the_plus_variant_has_a_residual_scale_and_it_starts_at_zero() -> None:
    config = ModelConfig(num_blocks=2, width=4)
    assert all(block.scale is None for block in nextitnet_blocks(config))
    for block in nextitnet_plus_blocks(config):
        assert block.scale.shape == (1,)
        assert block.scale.item() == 0.0


@pytest.mark.parametrize(("dilations", "sees"), [((1, 7), 49), ((1, 4), 31)])
def test_how_far_two_blocks_see(dilations: tuple[int, ...], sees: int) -> None:
    """Dilations 1 and 7 see 49 inputs without a gap, the whole of a window of 50."""
    config = ModelConfig(num_blocks=2, width=8, dilations=dilations)
    network = build_network(config).eval()
    positions = 60
    items_BT = torch.arange(positions).remainder(NUM_ITEMS).add(1)[None]

    def last(items_BT: Tensor) -> Tensor:
        history = network.embed(items_BT, torch.zeros(1, dtype=torch.int64))
        return network.encode(history, None, "dense")[-1]

    before, moved = last(items_BT), []
    for back in range(positions):
        other_BT = items_BT.clone()
        other_BT[0, -1 - back] = other_BT[0, -1 - back] % NUM_ITEMS + 1
        moved.append(bool((last(other_BT) - before).abs().max() > 1e-6))
    if dilations == (1, 7):
        assert moved == [True] * sees + [False] * (positions - sees)
    else:  # control: another choice sees less, so a deeper net would also see farther
        assert sum(moved) == sees
        assert not any(moved[sees:])
