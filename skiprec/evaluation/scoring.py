"""The accuracy pass over one work unit: decisions first, then the ranks of every arm at once."""

from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from skiprec.data.shards import Rows
from skiprec.evaluation.arms import POLICY_ARMS, Keep
from skiprec.evaluation.baselines import own_item_ranks, popularity_ranks
from skiprec.evaluation.tiles import Tile
from skiprec.network import SkipRecNetwork
from skiprec.ranking import target_ranks, top_items
from skiprec.types import PADDING, History, KeepDecision

TOP = 20

Columns = dict[str, NDArray[np.int32]]


@torch.inference_mode()
def decide_unit(network: SkipRecNetwork, tiles: list[Tile]) -> Keep:
    """`keep_RL`: the decisions of serving for the real rows of some tiles."""
    parts = []
    for tile in tiles:
        decision = network.decide(_embed(network, tile))
        assert decision is not None, "a network without a policy decides nothing"
        parts.append((decision.keep_BL[: tile.num_real] != 0).cpu().numpy())
    return np.concatenate(parts)


@torch.inference_mode()
def score_arms(
    network: SkipRecNetwork, tiles: list[Tile], keep_ARL: Keep, exclude_seen: bool
) -> Columns:
    """`rank_<arm>` for the arms of the run's own weights, and `top20_shared`.

    That is how many of the 20 best items of `skiprec` are also among those of `all_blocks`. A tile
    is embedded once, and its rows run for all arms together.
    """
    parts: list[tuple[Tensor, Tensor]] = []
    start = 0
    for tile in tiles:
        keep_ABL = torch.zeros(len(POLICY_ARMS), len(tile.batch.key_B), network.num_blocks)
        part = keep_ARL[:, start : start + tile.num_real]
        keep_ABL[:, : tile.num_real] = torch.from_numpy(part.astype(np.float32))
        start += tile.num_real
        parts.append(_score_tile(network, tile, keep_ABL, exclude_seen))
    rank_AR = torch.cat([rank_AB for rank_AB, _ in parts], dim=1).int().cpu().numpy()
    shared_R = torch.cat([shared_B for _, shared_B in parts]).int().cpu().numpy()
    ranks = {f"rank_{name}": rank_AR[index] for index, name in enumerate(POLICY_ARMS)}
    return {**ranks, f"top{TOP}_shared": shared_R}


@torch.inference_mode()
def score_full(network: SkipRecNetwork, tiles: list[Tile], exclude_seen: bool) -> Columns:
    """`rank_full_backbone`: every block, no policy."""
    parts = []
    for tile in tiles:
        x_TBD = network.encode(_embed(network, tile), None, "dense")
        rank_B = _ranks(network, x_TBD[-1], tile.batch.items_BW, exclude_seen)
        parts.append(rank_B[: tile.num_real])
    return {"rank_full_backbone": torch.cat(parts).int().cpu().numpy()}


def score_baselines(rows: Rows, place_V: NDArray[np.int64], exclude_seen: bool) -> Columns:
    """Ranks without a network. Own items cannot be recommended where seen ones are excluded."""
    items_RT, target_R = rows.items_RW[:, :-1], rows.items_RW[:, -1]
    ranks = {"popularity": popularity_ranks(items_RT, target_R, place_V, exclude_seen)}
    if not exclude_seen:
        ranks["own_frequent"] = own_item_ranks(items_RT, target_R, place_V, "frequency")
        ranks["last_items"] = own_item_ranks(items_RT, target_R, place_V, "recency")
    return {f"rank_{name}": rank_R.astype(np.int32) for name, rank_R in ranks.items()}


def describe_rows(rows: Rows) -> dict[str, NDArray[np.int32] | NDArray[np.int64]]:
    """Whose rows these are: user, row, target, and the number of real inputs."""
    return {
        "user": rows.user_R,
        "row": rows.row_R,
        "target": rows.items_RW[:, -1],
        "history_length": (rows.items_RW[:, :-1] != PADDING).sum(1).astype(np.int32),
    }


def _embed(network: SkipRecNetwork, tile: Tile) -> History:
    batch = tile.batch.to(network.device)
    return network.embed(batch.input_BT, batch.key_B)


def _score_tile(
    network: SkipRecNetwork, tile: Tile, keep_ABL: Tensor, exclude_seen: bool
) -> tuple[Tensor, Tensor]:
    num_arms, num_rows, num_blocks = keep_ABL.shape
    history = _embed(network, tile)
    repeated = History(
        history.item_TB.repeat(1, num_arms),
        history.x_TBD.repeat(1, num_arms, 1),
        history.is_item_TB1.repeat(1, num_arms, 1),
        history.key_B.repeat(num_arms),
    )
    keep_NL = keep_ABL.view(num_arms * num_rows, num_blocks).to(history.x_TBD.device)
    x_ND = network.encode(repeated, KeepDecision(keep_NL, None), "gathered")[-1]
    rank_N = _ranks(network, x_ND, tile.batch.items_BW.repeat(num_arms, 1), exclude_seen)
    rank_AB = rank_N.view(num_arms, num_rows)[:, : tile.num_real]
    x_ABD = x_ND.view(num_arms, num_rows, -1)
    pair_2BD = x_ABD[[POLICY_ARMS.index("all_blocks"), POLICY_ARMS.index("skiprec")]]
    return rank_AB, _shared_top(network, pair_2BD[:, : tile.num_real], tile, exclude_seen)


def _ranks(network: SkipRecNetwork, x_BD: Tensor, items_BW: Tensor, exclude_seen: bool) -> Tensor:
    items_BW = items_BW.to(x_BD.device)
    seen_BT = items_BW[:, :-1] if exclude_seen else None
    use = partial(target_ranks, target_B=items_BW[:, -1], seen_BT=seen_BT)
    rank_B: Tensor = network.head(x_BD, use)
    return rank_B


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
