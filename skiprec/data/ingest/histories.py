"""The second step of a build: filters the interactions and sorts each user's history."""

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
    """The histories of some users, one after another, each with the oldest item first."""

    hash_U: Hashes  # ascending
    length_U: Longs
    test_length_U: Longs  # number of items at the end that came from a test file
    item_N: npt.NDArray[np.int32]  # codes into Spill.item_ids

    def save(self, path: Path) -> None:
        """Writes the histories to a file."""
        np.savez(path, **vars(self))

    @classmethod
    def load(cls, path: Path) -> "Histories":
        """The histories in a file that `save` wrote."""
        with np.load(path) as arrays:
            return cls(**{name: arrays[name] for name in arrays.files})


@dataclass
class FilterCounts:
    """Numbers of users, items and interactions that the filters removed."""

    cut_users: int = 0
    cut_users_interactions: int = 0
    filtered_items: int = 0
    filtered_items_interactions: int = 0
    short_histories: int = 0
    short_histories_interactions: int = 0


def last_user_hash(spill: Spill, max_users: int) -> np.uint64:
    """The hash of the user at place `max_users`; the largest hash if there are fewer users."""
    rest = max_users
    for index in range(spill.num_buckets):
        hash_U = np.unique(spill.bucket(index).hash_N)
        if len(hash_U) >= rest:
            return np.uint64(hash_U[rest - 1])
        rest -= len(hash_U)
    return np.uint64(2**64 - 1)


def count_items(spill: Spill, last_hash: np.uint64) -> Longs:
    """Number of occurrences of each item code among the users up to `last_hash`."""
    count_I = np.zeros(len(spill.item_ids), np.int64)
    for index in range(spill.num_buckets):
        bucket = spill.bucket(index)
        item_N = bucket.item_N[bucket.hash_N <= last_hash]
        count_I += np.bincount(item_N, minlength=len(count_I))
    return count_I


def by_frequency(count_I: Longs, item_ids: list[str]) -> Longs:
    """Item codes by descending frequency; ties are ordered by original id."""
    by_id = sorted(range(len(item_ids)), key=item_ids.__getitem__)
    by_id_I = np.array(by_id, np.int64)
    return by_id_I[np.argsort(-count_I[by_id_I], kind="stable")]


def kept_items(count_I: Longs, item_ids: list[str], filters: Filters) -> Bools:
    """Whether the filters keep each item code."""
    keep_I = count_I >= filters.min_item_count
    if filters.max_items is not None:
        keep_I[by_frequency(count_I, item_ids)[filters.max_items :]] = False
    return keep_I


def sort_histories(
    bucket: Bucket, last_hash: np.uint64, keep_I: Bools, min_history: int, counts: FilterCounts
) -> Histories:
    """The filtered histories of a bucket in the order of the users' hashes.

    A history is ordered by (train before test, time, order column, place in the input). Adds the
    numbers of what was removed to `counts`.
    """
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
    # lexsort is stable, and its last key is the most significant one.
    sorted_N = np.lexsort([*keys, is_test_N, user_N])
    return Histories(
        hash_U=hash_U[is_long_U],
        length_U=length_U[is_long_U],
        test_length_U=np.bincount(user_N[is_test_N], minlength=len(hash_U))[is_long_U],
        item_N=bucket.item_N[row_N][sorted_N],
    )
