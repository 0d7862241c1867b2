"""Baselines without a network: popular items, and items that the user has bought before.

Where users buy the same items again, a network that loses to the latter has shown nothing.
"""

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from skiprec.data.shards import ShardSet

Ints = NDArray[np.int32]
Longs = NDArray[np.int64]

READ_ROWS = 65_536
COMPARED = 2**24


def popularity_places(shards: ShardSet) -> Longs:
    """`place_V`: the number of items before item v + 1 by frequency in these rows, then by id."""
    count_V = np.zeros(shards.num_items + 1, np.int64)
    for start in range(0, shards.num_rows, READ_ROWS):
        rows = shards.slice(start, min(start + READ_ROWS, shards.num_rows))
        count_V += np.bincount(rows.items_RW.ravel(), minlength=shards.num_items + 1)
    order_V: Longs = np.argsort(-count_V[1:], kind="stable")
    place_V: Longs = np.empty(shards.num_items, np.int64)
    place_V[order_V] = np.arange(shards.num_items)
    return place_V


def popularity_ranks(items_RT: Ints, target_R: Ints, place_V: Longs, exclude_seen: bool) -> Longs:
    """Rank of each row's target; `exclude_seen` removes the row's other items from the list."""
    place_R = place_V[target_R - 1]
    if not exclude_seen:
        return place_R + 1
    own_RT = np.concatenate([_own_items(part, "recency")[0] for part in _parts(items_RT)])
    ahead_RT = own_RT & (place_V[items_RT - 1] < place_R[:, None])
    rank_R: Longs = place_R + 1 - ahead_RT.sum(1)
    return rank_R


def own_item_ranks(
    items_RT: Ints, target_R: Ints, place_V: Longs, by: Literal["frequency", "recency"]
) -> Longs:
    """Rank of each row's target; the row's own items come first, then the rest by popularity.

    Args:
        by: the order of the own items. frequency: the most frequent first, of equal ones the more
            recent; recency: the most recent first.
    """
    ranks = []
    start = 0
    for part_RT in _parts(items_RT):
        target_R1 = target_R[start : start + len(part_RT), None]
        start += len(part_RT)
        own_RT, key_RT = _own_items(part_RT, by)
        is_target_RT = own_RT & (part_RT == target_R1)
        target_key_R1 = np.where(is_target_RT, key_RT, -1).max(1, keepdims=True)
        place_RT, place_R1 = place_V[part_RT - 1], place_V[target_R1 - 1]
        rank_if_own_R = 1 + (own_RT & (key_RT > target_key_R1)).sum(1)
        # All own items stand before a new target; the less popular ones do so only in this list.
        rank_if_new_R = 1 + place_R1[:, 0] + (own_RT & (place_RT > place_R1)).sum(1)
        ranks.append(np.where(is_target_RT.any(1), rank_if_own_R, rank_if_new_R))
    return np.concatenate(ranks)


def _parts(items_RT: Ints) -> list[Ints]:
    """Parts of the rows, so small that all pairs of positions can be compared at once."""
    num_positions = items_RT.shape[1]
    size = max(1, COMPARED // num_positions**2)
    return [items_RT[start : start + size] for start in range(0, len(items_RT), size)]


def _own_items(
    items_RT: Ints, by: Literal["frequency", "recency"]
) -> tuple[NDArray[np.bool_], Longs]:
    """`[R, T]` each: whether an item stands there for the last time, and the key of its order."""
    num_positions = items_RT.shape[1]
    same_RTT = items_RT[:, :, None] == items_RT[:, None, :]
    later_TT = np.triu(np.ones((num_positions, num_positions), bool), k=1)
    own_RT = (items_RT != 0) & ~(same_RTT & later_TT).any(2)
    recency_T = np.arange(num_positions)
    if by == "recency":
        return own_RT, np.broadcast_to(recency_T, items_RT.shape)
    return own_RT, same_RTT.sum(2) * num_positions + recency_T
