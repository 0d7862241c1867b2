"""Tiles of random histories, of which the last tile is not full."""

import torch

from skiprec.evaluation.measure.tiles import TILE_ROWS, Tile
from skiprec.types import Batch
from tests.testkit.networks import random_batch

NUM_REAL = (TILE_ROWS, 9)


def make_tiles() -> list[Tile]:
    """Two tiles, of `NUM_REAL` rows; the other rows of the second tile are padding."""
    tiles = []
    for seed, num_real in enumerate(NUM_REAL):
        batch = random_batch(TILE_ROWS, seed)
        items_BW = batch.items_BW.clone()
        items_BW[num_real:] = 0
        tiles.append(Tile(Batch(items_BW, batch.key_B), num_real))
    return tiles


def real_rows(tiles: list[Tile]) -> torch.Tensor:
    """The rows of all tiles without the padding."""
    return torch.cat([tile.batch.items_BW[: tile.num_real] for tile in tiles])
