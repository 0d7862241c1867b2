"""From shards to the batches of a training step."""

import math
from dataclasses import dataclass

import numpy as np
import torch

from skiprec.data.order import DataOrder, rank_slices
from skiprec.data.shards import ShardSet
from skiprec.types import Batch


@dataclass(frozen=True)
class TrainingReader:
    """The rows that one rank reads: a function of the step, with no state to resume."""

    shards: ShardSet
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
        items_RW = torch.from_numpy(self.shards.take(row_R).items_RW.astype(np.int64))
        key = torch.from_numpy(key_R)
        offset = slices[0][0]
        return [
            Batch(items_RW[start - offset : stop - offset], key[start - offset : stop - offset])
            for start, stop in slices
        ]

    @property
    def passes(self) -> int:
        """Micro-batches a step; the same on every rank."""
        return len(
            rank_slices(self.global_batch_rows, self.world_size, self.rank, self.micro_batch_rows)
        )


def validation_tiles(
    shards: ShardSet, num_rows: int | None, tile_rows: int, world_size: int, rank: int
) -> list[tuple[Batch, int]]:
    """This rank's `(tile, real rows)`: every rank has equally many tiles, padded to one size.

    `num_rows` rows are taken at equal distances over the split; None takes all. The fill rows of a
    tile are empty histories; they come last, and are for the caller to cut off.
    """
    total = shards.num_rows if num_rows is None else min(num_rows, shards.num_rows)
    row_R = np.linspace(0, shards.num_rows - 1, total).round().astype(np.int64)
    mine_R = row_R[rank::world_size]
    num_tiles = math.ceil(math.ceil(total / world_size) / tile_rows)
    tiles = []
    for index in range(num_tiles):
        part = mine_R[index * tile_rows : (index + 1) * tile_rows]
        items = np.zeros((tile_rows, shards.window), np.int64)
        items[: len(part)] = shards.take(part).items_RW
        key_B = torch.zeros(tile_rows, dtype=torch.int64)
        key_B[: len(part)] = torch.from_numpy(part)
        tiles.append((Batch(torch.from_numpy(items), key_B), len(part)))
    return tiles
