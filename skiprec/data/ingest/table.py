"""Turns one batch of a table, as columns of raw values, into a chunk of interactions."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from skiprec.data.ingest.chunks import Chunk
from skiprec.data.ingest.conditions import apply_condition, parse_condition
from skiprec.data.ingest.parsing import parse_ids, parse_integers, parse_times
from skiprec.data.ingest.recipe import TableSource

Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Interpreted:
    """The good rows of a batch, the number of filtered rows, and the bad rows by reason.

    `bad` maps a reason such as "no user id in column 'user'" to the indices of such rows. A row is
    listed once, under its first problem.
    """

    chunk: Chunk
    filtered: int
    bad: dict[str, npt.NDArray[np.int64]]

    def first_bad(self) -> tuple[int, str] | None:
        """The index in the batch and the reason of the first bad row; None if all rows are good."""
        firsts = [(int(rows[0]), reason) for reason, rows in self.bad.items()]
        return min(firsts, default=None)


def interpret(columns: Mapping[str, pa.Array], source: TableSource) -> Interpreted:
    """Applies the conditions, then reads the ids and sort keys of the rows that pass them."""
    num_rows = len(columns[source.user_column])
    alive_N = np.ones(num_rows, np.bool_)
    bad: dict[str, npt.NDArray[np.int64]] = {}

    def reject(reason: str, wrong_N: Bools) -> None:
        rows = np.flatnonzero(wrong_N & alive_N)
        if len(rows):
            bad[reason] = rows
            alive_N[rows] = False

    for text in source.keep:
        condition = parse_condition(text)
        holds_N, unreadable_N = apply_condition(condition, columns[condition.column])
        reject(f"unreadable number in column {condition.column!r}", unreadable_N)
        alive_N &= holds_N
    filtered = num_rows - int(alive_N.sum()) - sum(len(rows) for rows in bad.values())

    users, readable_N = parse_ids(columns[source.user_column])
    reject(f"no user id in column {source.user_column!r}", ~readable_N)
    items, readable_N = parse_ids(columns[source.item_column])
    reject(f"no item id in column {source.item_column!r}", ~readable_N)
    time_N = order_N = None
    if source.time_column is not None:
        time_format = source.time_format or "number"
        time_N, readable_N = parse_times(columns[source.time_column], time_format)
        reject(f"unreadable time ({time_format}) in {source.time_column!r}", ~readable_N)
    if source.order_column is not None:
        order_N, readable_N = parse_integers(columns[source.order_column])
        reject(f"unreadable whole number in column {source.order_column!r}", ~readable_N)

    if not alive_N.all():
        kept = pa.array(np.flatnonzero(alive_N))
        users, items = users.take(kept), items.take(kept)
        time_N = None if time_N is None else time_N[alive_N]
        order_N = None if order_N is None else order_N[alive_N]
    return Interpreted(Chunk(users, items, time_N, order_N), filtered, bad)
