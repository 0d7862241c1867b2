"""Tiles hold the same rows however they are read."""

from pathlib import Path

import numpy as np
import pytest
import torch

from skiprec.data.batching import evenly_spaced_rows
from skiprec.data.shards import ShardSet
from skiprec.evaluation.measure.tiles import TILE_ROWS, read_tiles, work_units
from skiprec.inference.executor import request_keys
from tests.testkit.runs import build_smoke_data, build_timed_data


def test_units_are_whole_tiles_at_any_batch_size() -> None:
    for batch_rows in (1, 64, 100, 256):
        units = work_units(1000, batch_rows)
        assert all(unit.start % TILE_ROWS == 0 for unit in units)
        assert sum(unit.stop - unit.start for unit in units) == 1000
    assert len(work_units(1000, 100)) == len(work_units(1000, 64)) == 16
    assert len(work_units(1000, 128)) == 8


def test_a_sample_is_spread_over_the_split() -> None:
    assert (
        evenly_spaced_rows(5, None).tolist() == evenly_spaced_rows(5, 9).tolist() == [0, 1, 2, 3, 4]
    )
    assert evenly_spaced_rows(100, 3).tolist() == [0, 50, 99]


def test_tiles_are_padded_with_empty_histories(tmp_path: Path) -> None:
    shards = ShardSet.open(build_smoke_data(tmp_path), "train")
    row_R = np.arange(3, 3 + TILE_ROWS + 5, dtype=np.int64)
    rows, tiles = read_tiles(shards, row_R)
    assert [tile.num_real for tile in tiles] == [TILE_ROWS, 5]
    assert all(len(tile.batch.items_BW) == TILE_ROWS for tile in tiles)
    assert np.array_equal(tiles[1].batch.items_BW[:5].numpy(), rows.items_RW[TILE_ROWS:])
    # As a request has it: the policy is timed on the decisions that are scored.
    inputs = torch.from_numpy(rows.items_RW[TILE_ROWS:, :-1].astype(np.int64))
    assert torch.equal(tiles[1].batch.key_B[:5], request_keys(inputs))
    assert not tiles[1].batch.items_BW[5:].any()
    assert rows.items_RW[TILE_ROWS:].any(axis=1).all(), "real rows are not empty"


def test_tiles_hold_the_times_of_their_rows(tmp_path: Path) -> None:
    shards = ShardSet.open(build_timed_data(tmp_path), "test")
    rows, (tile,) = read_tiles(shards, np.arange(5, dtype=np.int64))
    times_BW = tile.batch.times_BW
    assert times_BW is not None
    assert np.array_equal(times_BW[:5].numpy(), rows.times_RW)
    assert (np.diff(rows.times_RW[0]) == 3_600_000).all()
    assert not times_BW[5:].any()


@pytest.mark.parametrize("size", [1, 2, 3])
def test_reading_more_tiles_at_once_gives_the_same_tiles(tmp_path: Path, size: int) -> None:
    shards = ShardSet.open(build_smoke_data(tmp_path), "train")
    row_R = evenly_spaced_rows(shards.num_rows, 200)
    whole = read_tiles(shards, row_R)[1]
    parts = [
        tile
        for unit in work_units(200, size * TILE_ROWS)
        for tile in read_tiles(shards, row_R[unit])[1]
    ]
    for a, b in zip(whole, parts, strict=True):
        assert np.array_equal(a.batch.items_BW, b.batch.items_BW)
