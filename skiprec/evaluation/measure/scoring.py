"""The accuracy pass over one work unit: decisions first, then the ranks of every arm.

Equal results are computed once: a tile is embedded once, and arms with equal decisions about a row
share its result, so that these arms are equal to the last bit.
"""

from collections.abc import Iterator
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from skiprec.data.shards import Rows
from skiprec.evaluation.measure.arms import (
    ALL_BLOCKS,
    FULL_BACKBONE,
    LAST_ITEMS,
    OWN_FREQUENT,
    POPULARITY,
    SKIPREC,
    Arm,
    Arms,
    Decided,
    Keep,
    stack_arms,
    take_rows,
)
from skiprec.evaluation.measure.baselines import own_item_ranks, popularity_ranks
from skiprec.evaluation.measure.tiles import TILE_ROWS, Tile
from skiprec.network import SkipRecNetwork
from skiprec.ranking import target_ranks, top_items
from skiprec.types import PADDING, History, KeepDecision

TOP = 20
SHARED_COLUMN = f"top{TOP}_shared"
# Rows that run together, so that the memory of a tile does not grow with the number of arms.
ROWS_AT_ONCE = 8 * TILE_ROWS

Columns = dict[str, NDArray[np.int32]]


@torch.inference_mode()
def decide_unit(network: SkipRecNetwork, tiles: list[Tile]) -> Decided:
    """The decisions of serving for the real rows of some tiles."""
    keeps, numbers = [], []
    for tile in tiles:
        decision = network.decide(embed_tile(network, tile))
        assert decision is not None, "a network without a policy decides nothing"
        keeps.append((decision.keep_BL[: tile.num_real] != 0).cpu().numpy())
        numbers_BK = decision.prob_BL if decision.cost_BM is None else decision.cost_BM
        if numbers_BK is not None:
            numbers.append(numbers_BK[: tile.num_real].float().cpu().numpy())
    return Decided(np.concatenate(keeps), np.concatenate(numbers) if numbers else None)


@torch.inference_mode()
def score_arms(
    network: SkipRecNetwork, tiles: list[Tile], arms: Arms, exclude_seen: bool
) -> Columns:
    """The ranks of arms that run this run's own weights, and `SHARED_COLUMN`.

    The latter is the number of items that the 20 best of `SKIPREC` share with those of
    `ALL_BLOCKS`.
    """
    ranks, shared = [], []
    start = 0
    for tile in tiles:
        part = take_rows(arms, slice(start, start + tile.num_real))
        start += tile.num_real
        keep_ABL = stack_arms(part, tile.num_real)
        pair = [list(arms).index(arm) for arm in (ALL_BLOCKS, SKIPREC)]
        rank_AB, shared_B = _score_tile(network, tile, keep_ABL, pair, exclude_seen)
        ranks.append(rank_AB)
        shared.append(shared_B)
    rank_AR = torch.cat(ranks, dim=1).int().cpu().numpy()
    columns = {arm.rank_column: rank_AR[index] for index, arm in enumerate(arms)}
    return {**columns, SHARED_COLUMN: torch.cat(shared).int().cpu().numpy()}


@torch.inference_mode()
def score_full(network: SkipRecNetwork, tiles: list[Tile], exclude_seen: bool) -> Columns:
    """The ranks of `FULL_BACKBONE`, every block and no policy, and those of its exits."""
    depths = network.model_config.exits or (network.num_blocks,)
    arms = [*(Arm("exit", depth) for depth in depths[:-1]), FULL_BACKBONE]
    parts: dict[Arm, list[Tensor]] = {arm: [] for arm in arms}
    for tile in tiles:
        history, items_BW = embed_tile(network, tile), tile.batch.items_BW
        if network.exits is None:
            x_MBD = network.encode_last(history, None, "dense")[None]
        else:
            x_MBD = network.prefixes(history, depths)
        for arm, x_BD in zip(arms, x_MBD, strict=True):
            rank_B = ranks_of(network, x_BD, items_BW, exclude_seen)
            parts[arm].append(rank_B[: tile.num_real])
    return {arm.rank_column: torch.cat(ranks).int().cpu().numpy() for arm, ranks in parts.items()}


def score_baselines(rows: Rows, place_V: NDArray[np.int64], exclude_seen: bool) -> Columns:
    """The ranks of the baselines without a network.

    Where seen items are excluded, the baselines that recommend the row's own items have no ranks.
    """
    items_RT, target_R = rows.items_RW[:, :-1], rows.items_RW[:, -1]
    ranks = {POPULARITY: popularity_ranks(items_RT, target_R, place_V, exclude_seen)}
    if not exclude_seen:
        ranks[OWN_FREQUENT] = own_item_ranks(items_RT, target_R, place_V, "frequency")
        ranks[LAST_ITEMS] = own_item_ranks(items_RT, target_R, place_V, "recency")
    return {arm.rank_column: rank_R.astype(np.int32) for arm, rank_R in ranks.items()}


def describe_rows(rows: Rows) -> dict[str, NDArray[np.int32] | NDArray[np.int64]]:
    """The user, the row number, the target, the real inputs and the whole history of each row."""
    return {
        "user": rows.user_R,
        "row": rows.row_R,
        "target": rows.items_RW[:, -1],
        "history_length": (rows.items_RW[:, :-1] != PADDING).sum(1).astype(np.int32),
        "history_items": rows.end_R - 1,
    }


def embed_tile(network: SkipRecNetwork, tile: Tile) -> History:
    """The embedded histories of a tile's rows, on the network's device."""
    batch = tile.batch.to(network.device)
    return network.embed_batch(batch)


def last_positions(
    network: SkipRecNetwork, history: History, row_N: Tensor, keep_NL: Tensor
) -> Tensor:
    """`[N, D]`: the last position of row `row_N` of a tile after the blocks of `keep_NL`.

    A row of the tile may be asked for several times, with other blocks.
    """
    parts = []
    for rows, keep in zip(
        torch.split(row_N, ROWS_AT_ONCE), torch.split(keep_NL, ROWS_AT_ONCE), strict=True
    ):
        repeated = history.select_rows(rows)
        parts.append(network.encode_last(repeated, KeepDecision(keep, None), "gathered"))
    return torch.cat(parts)


def ranks_of(network: SkipRecNetwork, x_ND: Tensor, items_NW: Tensor, exclude_seen: bool) -> Tensor:
    """`[N]`: the rank of each row's target; `ROWS_AT_ONCE` rows are ranked at a time."""
    parts = []
    for x, items in _in_parts(x_ND, items_NW.to(x_ND.device)):
        seen = items[:, :-1] if exclude_seen else None
        parts.append(network.head(x, partial(target_ranks, target_B=items[:, -1], seen_BT=seen)))
    return torch.cat(parts)


def differing_decisions(keep_ABL: Keep) -> tuple[Keep, NDArray[np.int64], NDArray[np.int64]]:
    """The distinct pairs of a decision and a row: `keep_NL` and `row_N`.

    `place_AB` is the place of each arm's decision about each row among these pairs. The pairs are
    sorted by decision, so that most blocks are kept by all or none of the rows that run together.
    """
    num_arms, num_rows, num_blocks = keep_ABL.shape
    row_B1 = np.arange(num_rows, dtype=np.uint8)[:, None]
    assert num_rows <= TILE_ROWS <= 256
    key_ABK = np.concatenate(
        [np.packbits(keep_ABL, axis=2), np.broadcast_to(row_B1, (num_arms, num_rows, 1))], axis=2
    )
    key_NK, place = np.unique(key_ABK.reshape(num_arms * num_rows, -1), axis=0, return_inverse=True)
    keep_NL = np.unpackbits(key_NK[:, :-1], axis=1, count=num_blocks).astype(bool)
    return keep_NL, key_NK[:, -1].astype(np.int64), place.reshape(num_arms, num_rows)


def _score_tile(
    network: SkipRecNetwork, tile: Tile, keep_ABL: Keep, pair: list[int], exclude_seen: bool
) -> tuple[Tensor, Tensor]:
    keep_NL, row_N, place_AB = differing_decisions(keep_ABL)
    rows, place = (torch.from_numpy(a).to(network.device) for a in (row_N, place_AB))
    keep = torch.from_numpy(keep_NL.astype(np.float32)).to(network.device)
    x_ND = last_positions(network, embed_tile(network, tile), rows, keep)
    items_NW = tile.batch.items_BW.to(network.device)[rows]
    rank_N = ranks_of(network, x_ND, items_NW, exclude_seen)
    return rank_N[place], _shared_top(network, x_ND[place[pair]], tile, exclude_seen)


def _shared_top(
    network: SkipRecNetwork, pair_2BD: Tensor, tile: Tile, exclude_seen: bool
) -> Tensor:
    seen_BT = tile.batch.input_BT[: tile.num_real].repeat(2, 1).to(pair_2BD.device)
    k = min(TOP, network.num_items)
    use = partial(top_items, k=k, seen_BT=seen_BT if exclude_seen else None)
    items_NK, _ = network.head(pair_2BD.flatten(0, 1), use)
    full_BK, skipping_BK = items_NK.view(2, tile.num_real, k)
    shared_B: Tensor = (full_BK[:, :, None] == skipping_BK[:, None, :]).any(2).sum(1)
    return shared_B


def _in_parts(a_N: Tensor, b_N: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    return zip(torch.split(a_N, ROWS_AT_ONCE), torch.split(b_N, ROWS_AT_ONCE), strict=True)
