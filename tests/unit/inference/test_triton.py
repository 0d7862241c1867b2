"""The Triton kernel beside PyTorch.

On a CPU it runs in Triton's interpreter, which shows its numbers, but no races and no speed.
"""

import pytest
import torch

from skiprec.evaluation.measure.timing import shallow_network
from skiprec.network import SkipRecNetwork
from skiprec.types import History, KeepDecision
from tests.testkit.networks import build_network, model_config

pytest.importorskip("triton", reason="Triton is not installed")
from skiprec.inference.triton_blocks import TritonStack, tiles_of, with_triton_blocks

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"  # on a CPU tests/conftest.py interprets


def histories(network: SkipRecNetwork, rows: int, length: int) -> History:
    """Random items; row r has r items of padding, if so many fit."""
    generator = torch.Generator().manual_seed(length)
    items_BT = torch.randint(1, network.num_items + 1, (rows, length), generator=generator)
    for row in range(rows):
        items_BT[row, : row % length] = 0
    return network.embed(items_BT.to(DEVICE), torch.arange(rows, device=DEVICE))


CASES = {  # backbone, width, length, rows
    "several rows a tile": ("nextitnet_plus", 64, 19, 7),
    "several tiles a row": ("nextitnet_plus", 16, 150, 3),
    "odd widths": ("nextitnet", 24, 33, 4),
    "the widest": ("nextitnet", 128, 9, 5),
    "one row, one item": ("nextitnet_plus", 8, 1, 1),
}


@pytest.mark.parametrize("case", CASES)
@torch.inference_mode()
def test_the_kernel_computes_what_pytorch_computes(case: str) -> None:
    backbone, width, length, rows = CASES[case]
    network = build_network(model_config(backbone, width=width, num_blocks=5)).eval().to(DEVICE)
    history = histories(network, rows, length)
    in_triton = with_triton_blocks(network)
    generator = torch.Generator().manual_seed(rows)
    keep_BL = torch.randint(0, 2, (rows, 5), generator=generator).float()
    keep_BL[rows // 2] = 0
    decision = KeepDecision(keep_BL.to(DEVICE), None)
    for given, execution in ((decision, "gathered"), (None, "dense")):
        expected_TBD = network.encode(history, given, execution)
        found_TBD = in_triton.encode(history, given, execution)
        size = expected_TBD.abs().max()
        assert (found_TBD - expected_TBD).abs().max() <= 1e-5 * size
    moved = (network.encode(history, None, "dense") - history.x_TBD).abs().max()
    assert moved > 1e-3 * history.x_TBD.abs().max()
    skipping_TBD = in_triton.encode(history, decision, "gathered")
    assert torch.equal(skipping_TBD[:, rows // 2], history.x_TBD[:, rows // 2])


@torch.inference_mode()
def test_a_shallow_network_has_the_kernel_of_its_network() -> None:
    network = build_network(model_config(num_blocks=4)).eval().to(DEVICE)
    history = histories(network, 3, 9)
    shallow = shallow_network(with_triton_blocks(network), 2)
    assert isinstance(shallow.stack, TritonStack)
    expected_TBD = shallow_network(network, 2).encode(history, None, "dense")
    found_TBD = shallow.encode(history, None, "dense")
    torch.testing.assert_close(found_TBD, expected_TBD, rtol=1e-5, atol=1e-4)


def test_tiles_hold_every_row_once_and_rows_of_equal_decisions_lie_together() -> None:
    keep_BL = torch.tensor([[1.0, 0, 1], [0, 0, 0], [1, 1, 1], [1, 0, 1], [0, 1, 1]])
    row_M, kept_ML, count_M = tiles_of(keep_BL, 2)
    assert sorted(row_M.tolist()) == [-1, 0, 1, 2, 3, 4]
    tiles = [set(pair) for pair in row_M.view(-1, 2).tolist()]
    assert {0, 3} in tiles or {0, 2} in tiles or {3, 2} in tiles
    assert count_M.tolist() == sorted(count_M.tolist(), reverse=True)
    for tile, kept_L, count in zip(tiles, kept_ML.tolist(), count_M.tolist(), strict=True):
        rows = [row for row in tile if row >= 0]
        wanted = keep_BL[rows].any(0).nonzero()[:, 0].tolist()
        assert kept_L[:count] == wanted


def test_what_the_kernel_does_not_know_is_refused_by_name() -> None:
    wide = build_network(model_config(width=256)).eval()
    with pytest.raises(ValueError, match=r"model\.width=256; at most 128"):
        with_triton_blocks(wide)
    attention = build_network(model_config("sasrec_plus")).eval()
    with pytest.raises(ValueError, match="'sasrec_plus'"):
        with_triton_blocks(attention)
    with pytest.raises(ValueError, match=r"call network\.eval\(\) first"):
        with_triton_blocks(build_network(model_config()).train())
