"""The rows that a run trains on and validates: those of their splits, or halves of one split.

A policy that predicts what depth is worth must learn it on sequences that its network has not been
trained on: on training rows, deeper exits look better than they are. So it is fitted on half of the
users of the validation split, and validated on the other half.
"""

from dataclasses import dataclass
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
        return self.shards.take(self.row_R[rows_R])


def rows_to_train(data: Path, training: TrainingConfig) -> ShardSet | SomeRows:
    """The rows that steps are made of."""
    if training.fit_on is None:
        return ShardSet.open(data, "train")
    return _half(ShardSet.open(data, "validation"), 0)


def rows_to_validate(data: Path, training: TrainingConfig) -> ShardSet | SomeRows:
    """The rows that validations score."""
    validation = ShardSet.open(data, "validation")
    return validation if training.fit_on is None else _half(validation, 1)


def _half(shards: ShardSet, half: int) -> SomeRows:
    """The rows of every other user, by a hash."""
    user_R = shards.take(np.arange(shards.num_rows)).user_R.astype(np.uint64)
    key_R = mix_array(np.full(len(user_R), stream_id("held-out"), np.uint64), user_R)
    return SomeRows(shards, np.flatnonzero(key_R % np.uint64(2) == half))
