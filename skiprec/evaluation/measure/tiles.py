"""The rows that are evaluated, in tiles of one fixed, padded size.

The last bits of a matrix product depend on its number of rows. A tile always has the same rows, by
their place in the evaluated part, and is computed by itself; so a result depends neither on how
many tiles are read at once nor on how many workers share them.
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from skiprec.data.shards import Rows, ShardSet
from skiprec.inference.executor import request_keys
from skiprec.types import Batch

TILE_ROWS = 64

Longs = NDArray[np.int64]


@dataclass(frozen=True)
class Tile:
    """`TILE_ROWS` rows, of which the first `num_real` are real and the rest are empty histories."""

    batch: Batch
    num_real: int


def evaluated_rows(num_rows: int, max_rows: int | None) -> Longs:
    """Row numbers: all of a split, or `max_rows` at equal distances over it."""
    total = num_rows if max_rows is None else min(num_rows, max_rows)
    return np.linspace(0, num_rows - 1, total).round().astype(np.int64)


def work_units(num_rows: int, batch_rows: int) -> list[slice]:
    """Slices of the evaluated rows, each of whole tiles, together about `batch_rows` rows."""
    size = TILE_ROWS * max(1, batch_rows // TILE_ROWS)
    return [slice(start, min(start + size, num_rows)) for start in range(0, num_rows, size)]


def read_tiles(shards: ShardSet, row_R: Longs) -> tuple[Rows, list[Tile]]:
    """The rows of one work unit, plain and as tiles."""
    rows = shards.take(row_R)
    tiles = []
    for start in range(0, len(row_R), TILE_ROWS):
        part = slice(start, start + TILE_ROWS)
        num_real = len(row_R[part])
        items_BW = np.zeros((TILE_ROWS, shards.window), np.int64)
        items_BW[:num_real] = rows.items_RW[part]
        items = torch.from_numpy(items_BW)
        tiles.append(Tile(Batch(items, request_keys(items[:, :-1])), num_real))
    return rows, tiles
