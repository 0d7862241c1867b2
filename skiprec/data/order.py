"""The order of the training rows: a pure function of (seed, epoch, index), without state.

An epoch visits every row once. The rows are divided into blocks of `BLOCK_ROWS` rows (no
blocks of a network). A keyed permutation orders them. Each `WINDOW_BLOCKS` consecutive blocks of
that order are a window (no window of items),
and a second keyed permutation orders the rows within it. Reads stay within the blocks of one
window, so a file much larger than memory is read in large pieces. Rank and world size only slice
the result.
"""

import itertools
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from skiprec import keyed_random

BLOCK_ROWS = 256
WINDOW_BLOCKS = 64


@dataclass(frozen=True)
class DataOrder:
    """The order of the samples of a split. Samples are counted from 0 over all epochs."""

    seed: int
    num_rows: int
    block_rows: int = BLOCK_ROWS
    window_blocks: int = WINDOW_BLOCKS

    def rows(self, start: int, stop: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """`(row_R, key_R)` of the samples [start, stop); a key seeds all noise of its sample."""
        if self.num_rows < 1:
            raise ValueError("the training split has no rows; build a dataset with at least one")
        row_parts = [np.empty(0, np.int64)]
        key_parts = [np.empty(0, np.uint64)]
        while start < stop:
            epoch, index = divmod(start, self.num_rows)
            end = min(stop - epoch * self.num_rows, self.num_rows)
            row_parts.append(self._epoch_rows(epoch, index, end))
            epoch_key = np.uint64(keyed_random.mix(self.seed, epoch))
            key_parts.append(
                keyed_random.mix_array(
                    np.full(end - index, epoch_key), np.arange(index, end, dtype=np.uint64)
                )
            )
            start += end - index
        return np.concatenate(row_parts), np.concatenate(key_parts).view(np.int64)

    def _epoch_rows(self, epoch: int, start: int, stop: int) -> NDArray[np.int64]:
        """The rows at positions [start, stop) of one epoch."""
        parts = []
        first = self._window_at(epoch, start)
        window, offset = first
        position = start
        while position < stop:
            rows = _window_rows(self, epoch, window)
            taken = rows[offset : offset + stop - position]
            parts.append(taken)
            position += len(taken)
            window, offset = window + 1, 0
        return np.concatenate(parts)

    def _window_at(self, epoch: int, position: int) -> tuple[int, int]:
        """The window that holds a position of the epoch, and the offset of the position in it."""
        starts = _window_starts(self, epoch)
        window = int(np.searchsorted(starts, position, side="right")) - 1
        return window, position - int(starts[window])

    @property
    def num_blocks(self) -> int:
        """Number of blocks of the split; the last block may be short."""
        return -(-self.num_rows // self.block_rows)


@lru_cache(maxsize=4)
def _block_order(order: DataOrder, epoch: int) -> NDArray[np.int64]:
    return keyed_random.permutation(keyed_random.mix(order.seed, epoch, 1), order.num_blocks)


@lru_cache(maxsize=4)
def _window_starts(order: DataOrder, epoch: int) -> NDArray[np.int64]:
    """The first position of each window; one window holds the short last block of the split."""
    blocks = _block_order(order, epoch)
    sizes = np.minimum(order.num_rows - blocks * order.block_rows, order.block_rows)
    window_first_block = np.arange(0, len(blocks), order.window_blocks)
    window_sizes = np.add.reduceat(sizes, window_first_block)
    return np.concatenate([[0], np.cumsum(window_sizes)[:-1]])


@lru_cache(maxsize=4)
def _window_rows(order: DataOrder, epoch: int, window: int) -> NDArray[np.int64]:
    """The rows of one window in the order of training."""
    first = window * order.window_blocks
    blocks = _block_order(order, epoch)[first : first + order.window_blocks]
    rows = (blocks[:, None] * order.block_rows + np.arange(order.block_rows)).reshape(-1)
    rows = rows[rows < order.num_rows]
    return rows[keyed_random.permutation(keyed_random.mix(order.seed, epoch, 2, window), len(rows))]


def rank_slices(
    global_batch_rows: int, world_size: int, rank: int, micro_batch_rows: int | None
) -> list[tuple[int, int]]:
    """The `[start, stop)` of each pass (micro-batch) of one rank within a global batch.

    Every rank has the same number of passes. Their sizes differ by at most one row and may be zero.
    """
    share = -(-global_batch_rows // world_size)
    passes = 1 if micro_batch_rows is None else -(-share // micro_batch_rows)
    start = rank * global_batch_rows // world_size
    rows = (rank + 1) * global_batch_rows // world_size - start
    edges = [start + index * rows // passes for index in range(passes + 1)]
    return list(itertools.pairwise(edges))
