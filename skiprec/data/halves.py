"""The rows that a run trains on and validates: those of their splits, or halves of one split.

A policy that predicts what depth is worth must learn it on items that its network has not been
trained on: on those, deeper exits look better than they are. So it is fitted on half of the users
of the validation split, and validated on the other half. A row of that split may reach back to
items that were trained on, as with a split by time; only the items behind these count.
"""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from skiprec.config.training import TrainingConfig
from skiprec.data.manifest import Manifest
from skiprec.data.shards import Rows, ShardSet
from skiprec.keyed_random import mix_array, stream_id


@dataclass(frozen=True)
class SomeRows:
    """Some rows of a split, numbered anew from 0."""

    shards: ShardSet
    row_R: NDArray[np.int64]
    num_scored_R: NDArray[np.int64] | None = None  # see `Rows`

    @property
    def num_rows(self) -> int:
        """How many rows there are."""
        return len(self.row_R)

    @property
    def manifest(self) -> Manifest:
        """The manifest of the dataset."""
        return self.shards.manifest

    @property
    def num_items(self) -> int:
        """V, the number of items of the catalogue."""
        return self.shards.num_items

    def take(self, rows_R: NDArray[np.int64]) -> Rows:
        """The rows with these numbers, in this order."""
        rows = self.shards.take(self.row_R[rows_R])
        if self.num_scored_R is None:
            return rows
        return replace(rows, num_scored_R=self.num_scored_R[rows_R])


def rows_to_train(data: Path, training: TrainingConfig) -> ShardSet | SomeRows:
    """The rows that steps are made of."""
    if training.fit_on is None:
        return ShardSet.open(data, "train")
    half = _half(ShardSet.open(data, "validation"), 0)
    num_held_out_R = items_held_out(ShardSet.open(data, "train"), half.shards)
    return replace(half, num_scored_R=num_held_out_R[half.row_R])


def rows_to_validate(data: Path, training: TrainingConfig) -> ShardSet | SomeRows:
    """The rows that validations score."""
    validation = ShardSet.open(data, "validation")
    return validation if training.fit_on is None else _half(validation, 1)


def items_held_out(train: ShardSet, rows: ShardSet) -> NDArray[np.int64]:
    """Of each row, how many of its newest items lie behind the items that were trained on.

    All items up to the end of the user's last training row before the row's own end count as
    trained on. A row of a user without training rows has as many as its history.
    """
    user_N, end_N = train.users_and_ends()
    user_R, end_R = rows.users_and_ends()
    after_all = 1 + max(end_N.max(initial=0), end_R.max(initial=0))
    # Each user also has an end of 0, "nothing was trained on", which is found where no other is.
    trained_N = np.sort(np.concatenate([user_N * after_all + end_N, user_R * after_all]))
    last_R = trained_N[np.searchsorted(trained_N, user_R * after_all + end_R, side="right") - 1]
    num_held_out_R: NDArray[np.int64] = end_R - last_R % after_all
    return num_held_out_R


def _half(shards: ShardSet, half: int) -> SomeRows:
    """The rows of every other user, by a hash."""
    user_R = shards.users_and_ends()[0].astype(np.uint64)
    key_R = mix_array(np.full(len(user_R), stream_id("held-out"), np.uint64), user_R)
    return SomeRows(shards, np.flatnonzero(key_R % np.uint64(2) == half))
