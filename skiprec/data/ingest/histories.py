"""The second step of a build: filters the interactions and sorts each user's history."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from skiprec.data.hashing import Hashes
from skiprec.data.ingest.recipe import Filters
from skiprec.data.ingest.spill import Bucket, Spill
from skiprec.data.ingest.times import Clock

Bools = npt.NDArray[np.bool_]
Longs = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Histories:
    """The histories of some users, one after another, each with the oldest item first."""

    hash_U: Hashes  # ascending
    length_U: Longs
    test_length_U: Longs  # number of items at the end that came from a test file
    item_N: npt.NDArray[np.int32]  # codes into Spill.item_ids
    ms_N: Longs | None = None  # milliseconds since 1970, where the times are known

    def save(self, path: Path) -> None:
        """Writes the histories to a file."""
        np.savez(path, **{name: array for name, array in vars(self).items() if array is not None})

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
    dropped_repeats: int = 0
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
    bucket: Bucket,
    last_hash: np.uint64,
    keep_I: Bools,
    filters: Filters,
    clock: Clock | None,
    counts: FilterCounts,
) -> Histories:
    """The filtered histories of a bucket in the order of the users' hashes.

    A history is ordered by (train before test, time, order column, place in the input). Adds the
    numbers of what was removed to `counts`. With a clock, the histories have times.
    """
    is_cut_N = bucket.hash_N > last_hash
    is_rare_N = ~is_cut_N & ~keep_I[bucket.item_N]
    counts.cut_users += len(np.unique(bucket.hash_N[is_cut_N]))
    counts.cut_users_interactions += int(is_cut_N.sum())
    counts.filtered_items_interactions += int(is_rare_N.sum())
    num_users = len(np.unique(bucket.hash_N[~is_cut_N]))

    row_N = np.flatnonzero(~is_cut_N & ~is_rare_N)
    if filters.drop_repeats == "none":
        row_N = _without_short_histories(bucket, row_N, filters.min_history, num_users, counts)
        row_N = _in_order(bucket, row_N)
    else:
        row_N = _in_order(bucket, row_N)
        kept_N = _without_repeats(bucket, row_N, filters.drop_repeats)
        counts.dropped_repeats += len(row_N) - len(kept_N)
        row_N = _without_short_histories(bucket, kept_N, filters.min_history, num_users, counts)
    hash_N = bucket.hash_N[row_N]
    start_U = np.flatnonzero(np.diff(hash_N, prepend=~hash_N[:1]))  # the hashes are in order
    ms_N = None
    if clock is not None and bucket.time_N is not None:
        ms_N = clock.milliseconds(bucket.time_N[row_N])
    return Histories(
        hash_U=hash_N[start_U],
        length_U=np.diff(start_U, append=len(row_N)),
        test_length_U=np.add.reduceat(bucket.is_test_N[row_N], start_U, dtype=np.int64),
        item_N=bucket.item_N[row_N],
        ms_N=ms_N,
    )


def _in_order(bucket: Bucket, row_N: Longs) -> Longs:
    """Rows of a bucket, user after user in the order of the hash, each from old to new."""
    keys: list[Any] = [
        key[row_N]
        for key in (bucket.order_N, bucket.time_N, bucket.is_test_N, bucket.hash_N)
        if key is not None
    ]
    # lexsort is stable, and its last key is the most significant one.
    sorted_N = np.lexsort(keys)
    return row_N[sorted_N]


def _without_short_histories(
    bucket: Bucket, row_N: Longs, min_history: int, num_users: int, counts: FilterCounts
) -> Longs:
    """The rows of users with enough of them, in the given order."""
    _, user_N, length_U = np.unique(bucket.hash_N[row_N], return_inverse=True, return_counts=True)
    is_long_U = length_U >= min_history
    counts.short_histories += num_users - int(is_long_U.sum())
    counts.short_histories_interactions += int(length_U[~is_long_U].sum())
    return row_N[is_long_U[user_N]]


def _without_repeats(bucket: Bucket, row_N: Longs, which: str) -> Longs:
    """The rows (in order) without those that repeat an item of the same user."""
    hash_N, item_N = bucket.hash_N[row_N], bucket.item_N[row_N]
    is_kept_N = np.ones(len(row_N), np.bool_)
    if which == "consecutive":
        is_kept_N[1:] = (hash_N[1:] != hash_N[:-1]) | (item_N[1:] != item_N[:-1])
    else:
        keys: list[Any] = [item_N, hash_N]
        by_pair_N = np.lexsort(keys)  # stable, so the oldest of a pair comes first
        hash_N, item_N = hash_N[by_pair_N], item_N[by_pair_N]
        is_first_N = (hash_N[1:] != hash_N[:-1]) | (item_N[1:] != item_N[:-1])
        is_kept_N[by_pair_N[1:]] = is_first_N
    return row_N[is_kept_N]
