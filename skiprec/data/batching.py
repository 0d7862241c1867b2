"""From shards to the batches of a training step, and to the tiles of a validation."""

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from skiprec.data.halves import SomeRows
from skiprec.data.order import DataOrder, rank_slices
from skiprec.data.shards import ShardSet
from skiprec.types import Batch


@dataclass(frozen=True)
class TrainingReader:
    """The rows that one rank reads: a function of the step, with no state to resume."""

    shards: ShardSet | SomeRows
    order: DataOrder
    global_batch_rows: int
    world_size: int
    rank: int
    micro_batch_rows: int | None

    def micro_batches(self, step: int) -> list[Batch]:
        """The rank's passes of one step, in order."""
        first = step * self.global_batch_rows
        slices = rank_slices(
            self.global_batch_rows, self.world_size, self.rank, self.micro_batch_rows
        )
        row_R, key_R = self.order.rows(first + slices[0][0], first + slices[-1][1])
        rows = self.shards.take(row_R)
        items_RW = torch.from_numpy(rows.items_RW.astype(np.int64))
        optional = [
            None if values is None else torch.from_numpy(values)
            for values in (rows.times_RW, rows.num_scored_R)
        ]
        key = torch.from_numpy(key_R)
        offset = slices[0][0]
        parts = [slice(start - offset, stop - offset) for start, stop in slices]
        return [
            Batch(
                items_RW[part],
                key[part],
                *(None if values is None else values[part] for values in optional),
            )
            for part in parts
        ]

    @property
    def passes(self) -> int:
        """Micro-batches a step; the same on every rank."""
        return len(
            rank_slices(self.global_batch_rows, self.world_size, self.rank, self.micro_batch_rows)
        )


def validation_tiles(
    shards: ShardSet | SomeRows, num_rows: int | None, tile_rows: int, world_size: int, rank: int
) -> list[tuple[Batch, int]]:
    """The tiles of this rank, each with its number of real rows.

    Every rank has the same number of tiles, padded to one size. The padding rows of a tile come
    last; they are empty histories, and the caller must cut them off.

    Args:
        num_rows: rows of the split, at equal distances; None is all rows.
    """
    row_R = evenly_spaced_rows(shards.num_rows, num_rows)
    own_R = row_R[rank::world_size]
    num_tiles = math.ceil(math.ceil(len(row_R) / world_size) / tile_rows)
    tiles = []
    for index in range(num_tiles):
        part_R = own_R[index * tile_rows : (index + 1) * tile_rows]
        rows = shards.take(part_R)
        key_B = torch.zeros(tile_rows, dtype=torch.int64)
        key_B[: len(part_R)] = torch.from_numpy(part_R)
        items_BW = padded_rows(rows.items_RW, tile_rows)
        times_BW = None if rows.times_RW is None else padded_rows(rows.times_RW, tile_rows)
        tiles.append((Batch(items_BW, key_B, times_BW), len(part_R)))
    return tiles


def evenly_spaced_rows(num_rows: int, max_rows: int | None) -> NDArray[np.int64]:
    """Row numbers: all `num_rows` of a split, or `max_rows` at equal distances over the split."""
    total = num_rows if max_rows is None else min(num_rows, max_rows)
    return np.linspace(0, num_rows - 1, total).round().astype(np.int64)


def padded_rows(values_RW: NDArray[np.int32] | NDArray[np.int64], tile_rows: int) -> Tensor:
    """`[B, W]`, int64, of `tile_rows` rows: the given items or times, then empty histories."""
    values_BW = np.zeros((tile_rows, values_RW.shape[1]), np.int64)
    values_BW[: len(values_RW)] = values_RW
    return torch.from_numpy(values_BW)
