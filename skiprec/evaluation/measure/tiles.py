"""The rows that are evaluated, in tiles of one fixed, padded size.

The last bits of a matrix product depend on its number of rows. A tile always has the same rows, by
their place among the evaluated rows, and is computed by itself. The results therefore depend
neither on the number of tiles that are read at once nor on the number of workers.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from skiprec.data.batching import padded_rows
from skiprec.data.halves import SomeRows
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


def work_units(num_rows: int, batch_rows: int) -> list[slice]:
    """Slices of the evaluated rows; each has whole tiles and about `batch_rows` rows."""
    size = TILE_ROWS * max(1, batch_rows // TILE_ROWS)
    return [slice(start, min(start + size, num_rows)) for start in range(0, num_rows, size)]


def read_tiles(shards: ShardSet | SomeRows, row_R: Longs) -> tuple[Rows, list[Tile]]:
    """The rows of one work unit, as they are stored and as tiles."""
    rows = shards.take(row_R)
    tiles = []
    for start in range(0, len(row_R), TILE_ROWS):
        part = slice(start, start + TILE_ROWS)
        items_BW = padded_rows(rows.items_RW[part], TILE_ROWS)
        times_BW = None if rows.times_RW is None else padded_rows(rows.times_RW[part], TILE_ROWS)
        batch = Batch(items_BW, request_keys(items_BW[:, :-1]), times_BW)
        tiles.append(Tile(batch, len(row_R[part])))
    return rows, tiles
