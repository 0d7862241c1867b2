"""Results of sets of blocks at the last position, and the features that predict them."""

from functools import partial
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from skiprec.evaluation.measure.arms import Keep
from skiprec.evaluation.measure.intervals import Floats
from skiprec.evaluation.measure.scoring import embed_tile, last_positions, ranks_of
from skiprec.evaluation.measure.tiles import Tile
from skiprec.models.stack import BlockStack
from skiprec.network import SkipRecNetwork
from skiprec.ranking import row_cross_entropy
from skiprec.types import PADDING, History

# The prediction can bend at histories of these lengths: depth may pay most for some in between.
BENDS = tuple(2**power for power in range(1, 11))


class Features(NamedTuple):
    """What the regression reads of some rows, `[R, F]`.

    Args:
        weight_F: what a feature is multiplied by once it is standardised. All channels of the
            vectors together weigh as much as one number: with a weight of its own for each, a
            regression on a few thousand rows learns their noise.
    """

    value_RF: Floats
    weight_F: Floats


@torch.inference_mode()
def entropy_without_each(
    network: SkipRecNetwork, tiles: list[Tile], kept: tuple[int, ...]
) -> Floats:
    """`[C]`: for each block of `kept`, the mean cross-entropy with all others of `kept`, nats."""
    sum_C = np.zeros(len(kept))
    for tile in tiles:
        x_CBD = outputs_without_each(network, embed_tile(network, tile), kept)
        x_CBD = x_CBD[:, : tile.num_real]
        target_B = tile.batch.target_BT[: tile.num_real, -1].to(network.device)
        use = partial(row_cross_entropy, target_N=target_B.repeat(len(kept)))
        entropy_N: Tensor = network.head(x_CBD.flatten(0, 1), use)
        sum_C += entropy_N.view(len(kept), -1).double().sum(1).cpu().numpy()
    return sum_C / sum(tile.num_real for tile in tiles)


def outputs_without_each(
    network: SkipRecNetwork, history: History, kept: tuple[int, ...]
) -> Tensor:
    """`[C, B, D]`: for each block of `kept`, the last position after all others of `kept`.

    The networks without one block are equal up to this block. One trunk therefore runs all blocks,
    and the network without a block leaves the trunk before it. This is half of the work of running
    each network by itself.
    """
    assert isinstance(network.stack, BlockStack)
    num_rows = len(history.key_B)
    x_TND = history.x_TBD  # the networks that have left, in order, and the trunk
    for place, block in enumerate(kept):
        trunk_TBD = x_TND[:, -num_rows:]
        context_TNC = history.context_TBC.repeat(1, place + 1, 1)
        after_TND = network.stack.run_block(
            block, x_TND, context_TNC, history.key_B.repeat(place + 1)
        )
        left_TND, after_TBD = after_TND[:, :-num_rows], after_TND[:, -num_rows:]
        x_TND = torch.cat([left_TND, trunk_TBD, after_TBD], dim=1)
    return x_TND[-1, :-num_rows].view(len(kept), num_rows, -1)


@torch.inference_mode()
def measure_sets(
    network: SkipRecNetwork, tiles: list[Tile], keep_SL: Keep
) -> tuple[Floats, Floats]:
    """`[R, S]` each: the target's cross-entropy, nats, and its rank, with every set of blocks."""
    keep = torch.from_numpy(keep_SL.astype(np.float32)).to(network.device)
    entropies, ranks = [], []
    for tile in tiles:
        row_N = torch.arange(tile.num_real, device=network.device).repeat(len(keep))
        keep_NL = keep.repeat_interleave(tile.num_real, dim=0)
        x_ND = last_positions(network, embed_tile(network, tile), row_N, keep_NL)
        items_NW = tile.batch.items_BW.to(network.device)[row_N]
        entropy_N: Tensor = network.head(x_ND, partial(row_cross_entropy, target_N=items_NW[:, -1]))
        rank_N = ranks_of(network, x_ND, items_NW, exclude_seen=False)
        entropies.append(entropy_N.view(len(keep), -1).t().double().cpu().numpy())
        ranks.append(rank_N.view(len(keep), -1).t().double().cpu().numpy())
    return np.concatenate(entropies), np.concatenate(ranks)


@torch.inference_mode()
def history_features(network: SkipRecNetwork, tiles: list[Tile]) -> Features:
    """The mean item embedding, that of the last item, and the length of the history.

    These are the embeddings of the items alone, without those that a backbone adds to them.
    """
    vectors, numbers = [], []
    for tile in tiles:
        item_BT = tile.batch.input_BT[: tile.num_real].to(network.device)
        length_B = (item_BT != PADDING).sum(1)
        x_BTD = network.embedding(item_BT)  # zero at padding
        mean_BD = x_BTD.sum(1) / length_B.clamp(min=1)[:, None]
        vectors.append(torch.cat([mean_BD, x_BTD[:, -1]], dim=1))
        numbers.append(_length_with_bends(length_B))
    return _features(vectors, numbers)


@torch.inference_mode()
def state_features(network: SkipRecNetwork, tiles: list[Tile]) -> Features:
    """What is known of a row at the first exit.

    The normalised state of its last position, entropy and margin of the scores there, the squares
    of all these, and the length of the history.
    """
    assert network.exits is not None
    depth = int(network.exits.depth_M[0])
    vectors, numbers = [], []
    for tile in tiles:
        history = embed_tile(network, tile)
        early = network.first_blocks(history, depth)
        x_BD = early.x_TBD[-1, : tile.num_real]
        state_BD = F.layer_norm(x_BD, x_BD.shape[-1:])
        certainty_B2 = network.certainty(network.output_after(early, last=True)[-1])
        certainty_B2 = certainty_B2[: tile.num_real]
        length_B = history.is_item_TB1[:, : tile.num_real].sum((0, 2))
        vectors.append(torch.cat([state_BD, state_BD.square()], dim=1))
        numbers.append(
            torch.cat([certainty_B2, certainty_B2.square(), _length_with_bends(length_B)], dim=1)
        )
    return _features(vectors, numbers)


def _length_with_bends(length_B: Tensor) -> Tensor:
    """`[B, 1 + bends]`: log(1 + length), and its part beyond each of `BENDS`."""
    log_B1 = length_B[:, None].double().log1p()
    bend_N = torch.tensor(BENDS, dtype=torch.float64, device=log_B1.device).log1p()
    return torch.cat([log_B1, (log_B1 - bend_N).clamp(min=0)], dim=1)


def _features(vectors: list[Tensor], numbers: list[Tensor]) -> Features:
    """From the channels of vectors, and the numbers, of each tile."""
    vector_RC, number_RN = torch.cat(vectors).double(), torch.cat(numbers).double()
    num_channels = vector_RC.shape[1]
    weight_F = np.ones(num_channels + number_RN.shape[1])
    weight_F[:num_channels] = num_channels**-0.5
    return Features(torch.cat([vector_RC, number_RN], dim=1).cpu().numpy(), weight_F)
