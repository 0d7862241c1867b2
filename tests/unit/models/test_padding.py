"""Padding is no item: it has no vector and no influence, in every registered network."""

import pytest
import torch
from torch import Tensor

from skiprec.models.registry import BASELINES
from skiprec.network import SkipRecNetwork
from skiprec.types import PADDING, Batch
from tests.testkit.networks import (
    BACKBONE_NAMES,
    WINDOW,
    build_network,
    model_config,
    random_batch,
    take_rows,
)

# Products over other numbers of rows may sum in another order and differ in the last float32 bits.
CLOSE = {"rtol": 1e-5, "atol": 1e-6}
each_network = pytest.mark.parametrize("name", [*BACKBONE_NAMES, *sorted(BASELINES)])


def network_of(name: str) -> SkipRecNetwork:
    layers = {"num_blocks": 1} if name in BASELINES else {}
    return build_network(model_config(name, **layers)).eval()


def hidden(network: SkipRecNetwork, batch: Batch) -> Tensor:
    return network.encode(network.embed_batch(batch), None, "dense")


@each_network
def test_padding_comes_out_as_zeros(name: str) -> None:
    batch = random_batch(8)
    x_TBD = hidden(network_of(name), batch)
    is_padding_TB = batch.input_BT.t() == PADDING
    assert is_padding_TB.any()
    assert (x_TBD[is_padding_TB] == 0).all()
    assert (x_TBD[~is_padding_TB].abs().amax(-1) > 0).all()


@each_network
def test_padding_on_the_left_changes_nothing(name: str) -> None:
    """The vectors are the same in a window of the history's length and in a longer window."""
    network, batch = network_of(name), random_batch(WINDOW - 2)
    x_TBD = hidden(network, batch)
    for row in range(len(batch.items_BW)):
        short = take_rows(batch, slice(row, row + 1), start=row)
        # Products over other numbers of rows may sum in another order.
        torch.testing.assert_close(
            hidden(network, short)[:, 0], x_TBD[row:, row], rtol=1e-5, atol=1e-6
        )
