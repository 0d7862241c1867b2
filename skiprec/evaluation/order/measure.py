"""Asks a dataset whether the order of items tells more than the last item does, in minutes."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from skiprec.data.batching import evenly_spaced_rows
from skiprec.data.shards import ShardSet
from skiprec.evaluation.order.markov import Ints, MarkovModel

Longs = npt.NDArray[np.int64]

MAX_ORDER = 5
_BLOCK_ROWS = 16_384


@dataclass(frozen=True)
class OrderMeasured:
    """The ranks of the targets of held-out rows by models of the orders 0 to K - 1, and the sample.

    `length_R` counts the items of the user before the target, also those beyond the window.
    `unseen_targets` of the targets are in no training row that was counted.
    """

    rank_RK: Longs
    nats_RK: npt.NDArray[np.float64]
    user_R: Ints
    length_R: Ints
    unseen_targets: int
    train_rows: int
    all_train_rows: int
    all_held_out_rows: int


def measure_order(data: Path, split: str, max_rows: int, max_train_items: int) -> OrderMeasured:
    """Counts training rows and ranks the last items of the rows of a split.

    Both are sampled at even spaces, down to `max_rows` rows and `max_train_items` items.

    Raises:
        ValueError: no dataset, no such split, no rows, or rows of less than three items.
    """
    train, held_out = ShardSet.open(data, "train"), ShardSet.open(data, split)
    if train.window < 3:
        raise ValueError(
            f"the rows of {data} hold {train.window} items, so they have no order beyond the last "
            f"one; expected a window of at least {MAX_ORDER + 1} items: build the data with that"
        )
    row_R = evenly_spaced_rows(held_out.num_rows, max_rows)
    if not len(row_R):
        raise ValueError(f"split {split!r} of {data} has no rows; choose another with --split")
    rows = held_out.take(row_R)
    order = min(MAX_ORDER, train.window - 1)
    model = MarkovModel(rows.items_RW[:, :-1], held_out.num_items, order)
    train_rows = max(1, max_train_items // train.window)
    train_R = evenly_spaced_rows(train.num_rows, train_rows)
    model.count(_blocks(train, train_R))
    target_R = rows.items_RW[:, -1]
    rank_RK, nats_RK = model.ranks(target_R)
    return OrderMeasured(
        rank_RK,
        nats_RK,
        rows.user_R,
        rows.end_R - 1,
        int((~model.is_counted(target_R)).sum()),
        len(train_R),
        train.num_rows,
        held_out.num_rows,
    )


def _blocks(shards: ShardSet, row_R: Longs) -> Iterator[Ints]:
    for start in range(0, len(row_R), _BLOCK_ROWS):
        yield shards.take(row_R[start : start + _BLOCK_ROWS]).items_RW
