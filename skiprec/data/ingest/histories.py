"""Buckets of interactions to sorted histories, with the recipe's filters applied."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from skiprec.data.hashing import Hashes
from skiprec.data.ingest.recipe import Filters
from skiprec.data.ingest.spill import Bucket, Spill

Bools = npt.NDArray[np.bool_]
Longs = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Histories:
    """The histories of some users, one after the other, oldest item first."""

    hash_U: Hashes  # ascending
    length_U: Longs
    test_length_U: Longs  # how many of the last items came from a test file
    item_N: npt.NDArray[np.int32]  # codes into Spill.item_ids

    def save(self, path: Path) -> None:
        """Keep the histories on disk."""
        np.savez(path, **vars(self))

    @classmethod
    def load(cls, path: Path) -> "Histories":
        """What `save` wrote."""
        with np.load(path) as arrays:
            return cls(**{name: arrays[name] for name in arrays.files})


@dataclass
class FilterCounts:
    """What the filters took away."""

    cut_users: int = 0
    cut_users_interactions: int = 0
    filtered_items: int = 0
    filtered_items_interactions: int = 0
    short_histories: int = 0
    short_histories_interactions: int = 0


def last_user_hash(spill: Spill, max_users: int) -> np.uint64:
    """Hash of the max_users-th user in order, or of the last one if there are fewer."""
    missing = max_users
    for index in range(spill.num_buckets):
        hash_U = np.unique(spill.bucket(index).hash_N)
        if len(hash_U) >= missing:
            return np.uint64(hash_U[missing - 1])
        missing -= len(hash_U)
    return np.uint64(2**64 - 1)


def count_items(spill: Spill, last_hash: np.uint64) -> Longs:
    """How often each item code occurs among the users up to `last_hash`."""
    count_I = np.zeros(len(spill.item_ids), np.int64)
    for index in range(spill.num_buckets):
        bucket = spill.bucket(index)
        item_N = bucket.item_N[bucket.hash_N <= last_hash]
        count_I += np.bincount(item_N, minlength=len(count_I))
    return count_I


def by_frequency(count_I: Longs, item_ids: list[str]) -> Longs:
    """Item codes from the most frequent on; ties in order of the original id."""
    by_id = sorted(range(len(item_ids)), key=item_ids.__getitem__)
    by_id_I = np.array(by_id, np.int64)
    return by_id_I[np.argsort(-count_I[by_id_I], kind="stable")]


def kept_items(count_I: Longs, item_ids: list[str], filters: Filters) -> Bools:
    """Which item codes the filters keep."""
    keep_I = count_I >= filters.min_item_count
    if filters.max_items is not None:
        keep_I[by_frequency(count_I, item_ids)[filters.max_items :]] = False
    return keep_I


def sort_histories(
    bucket: Bucket, last_hash: np.uint64, keep_I: Bools, min_history: int, counts: FilterCounts
) -> Histories:
    """Filtered histories by user hash; each by (part, time, order, place in the input)."""
    is_cut_N = bucket.hash_N > last_hash
    is_rare_N = ~is_cut_N & ~keep_I[bucket.item_N]
    counts.cut_users += len(np.unique(bucket.hash_N[is_cut_N]))
    counts.cut_users_interactions += int(is_cut_N.sum())
    counts.filtered_items_interactions += int(is_rare_N.sum())
    num_users = len(np.unique(bucket.hash_N[~is_cut_N]))

    row_N = np.flatnonzero(~is_cut_N & ~is_rare_N)
    hash_U, user_N, length_U = np.unique(
        bucket.hash_N[row_N], return_inverse=True, return_counts=True
    )
    is_long_U = length_U >= min_history
    row_N, user_N = row_N[is_long_U[user_N]], user_N[is_long_U[user_N]]
    counts.short_histories += num_users - int(is_long_U.sum())
    counts.short_histories_interactions += int(length_U[~is_long_U].sum())

    keys = [key[row_N] for key in (bucket.order_N, bucket.time_N) if key is not None]
    is_test_N = bucket.is_test_N[row_N]
    # lexsort is stable and takes the most significant key last.
    sorted_N = np.lexsort([*keys, is_test_N, user_N])
    return Histories(
        hash_U=hash_U[is_long_U],
        length_U=length_U[is_long_U],
        test_length_U=np.bincount(user_N[is_test_N], minlength=len(hash_U))[is_long_U],
        item_N=bucket.item_N[row_N][sorted_N],
    )
