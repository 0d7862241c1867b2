"""Turns one batch of a table, as columns of raw values, into a chunk of interactions."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from skiprec.data.ingest.chunks import NO_ITEM, Chunk, Tally
from skiprec.data.ingest.conditions import apply_condition, parse_condition
from skiprec.data.ingest.parsing import is_list, parse_ids, parse_integers, plain
from skiprec.data.ingest.recipe import TableSource
from skiprec.data.ingest.times import clock_of, parse_times

Bools = npt.NDArray[np.bool_]
Longs = npt.NDArray[np.int64]

_PRINTED_LIST = r"^\s*\[[^\[\]]*\]\s*$"  # as Python and pandas write lists into text


@dataclass(frozen=True)
class Interpreted:
    """The good rows of a batch, the filtered interactions, and the bad rows by reason.

    `bad` maps a reason such as "no user id in column 'user'" to the indices of such rows. A row is
    listed once, under its first problem. `size_N` is the number of interactions of each row: 1, or
    the length of its history.
    """

    chunk: Chunk
    size_N: Longs
    filtered: int
    partial_dates: int
    bad: dict[str, Longs]

    def first_bad(self) -> tuple[int, str] | None:
        """The index in the batch and the reason of the first bad row; None if all rows are good."""
        firsts = [(int(rows[0]), reason) for reason, rows in self.bad.items()]
        return min(firsts, default=None)


def note(result: Interpreted, tally: Tally) -> None:
    """Adds the numbers of a batch to the tally."""
    tally.rows_read += int(result.size_N.sum())
    tally.filtered_rows += result.filtered
    tally.partial_dates += result.partial_dates
    for reason, rows in result.bad.items():
        tally.skip(reason, int(result.size_N[rows].sum()))


def interpret(
    columns: Mapping[str, pa.Array],
    source: TableSource,
    prefix: str,
    start: int,
    keeps_empty: bool = False,
) -> Interpreted:
    """Applies the conditions, then reads the ids and sort keys of the rows that pass them.

    Args:
        prefix, start: without a column of users each row is a user, whose id is `prefix` and the
            number of the row, which is `start + 1` for the first one.
        keeps_empty: see `Tally`.
    """
    num_rows = len(columns[source.item_column])
    alive_N = np.ones(num_rows, np.bool_)
    bad: dict[str, Longs] = {}

    def reject(reason: str, wrong_N: Bools) -> None:
        rows = np.flatnonzero(wrong_N & alive_N)
        if len(rows):
            bad[reason] = rows
            alive_N[rows] = False

    def read(column: str) -> pa.Array:
        values, readable_N = plain(columns[column])
        reject(f"bytes that are not UTF-8 in column {column!r}", ~readable_N)
        return values

    size_N, histories = np.ones(num_rows, np.int64), None
    if source.row_holds == "history":
        values = read(source.item_column)
        if pa.types.is_string(values.type):
            is_printed = pc.match_substring_regex(pc.fill_null(values, ""), _PRINTED_LIST)
            reject(
                f"a printed list in column {source.item_column!r}; expected items with blanks "
                "between them: write such lists as JSON lines or Parquet",
                is_printed.to_numpy(zero_copy_only=False),
            )
        histories, is_empty_N = _histories(values)
        size_N = np.maximum(1, pc.list_value_length(histories).to_numpy(zero_copy_only=False))
    for text in source.keep:
        condition = parse_condition(text)
        holds_N, unreadable_N = apply_condition(condition, read(condition.column))
        reject(f"unreadable value in column {condition.column!r} of {text!r}", unreadable_N)
        alive_N &= holds_N
    filtered = int(size_N.sum() - size_N[alive_N].sum()) - sum(
        int(size_N[rows].sum()) for rows in bad.values()
    )

    if source.user_column is None:
        users = _numbered(prefix, start, num_rows)
    else:
        values = read(source.user_column)
        users, readable_N = parse_ids(values)
        reject(_no_id("user", source.user_column, values.type), ~readable_N)
    if histories is None:
        values = read(source.item_column)
        items, readable_N = parse_ids(values)
    else:
        values = histories.flatten()
        items, readable_N = _items_of(histories)
        if keeps_empty:
            items = pc.if_else(pa.array(np.repeat(is_empty_N, size_N)), NO_ITEM, items)
            readable_N = readable_N | is_empty_N
    reject(_no_id("item", source.item_column, values.type), ~readable_N)
    time_N = order_N = None
    partial_dates = 0
    if source.time_column is not None:
        time_format = source.time_format or "number"
        times = read(source.time_column)
        time_N, readable_N, partial_dates = parse_times(times, time_format)
        reject(_unreadable_time(source.time_column, time_format, times, ~readable_N), ~readable_N)
        clock = clock_of(times.type, time_format, source.time_unit)
        if clock is not None:
            unit = source.time_unit
            advice = (
                f" in {unit!r}; expected another unit: --time-unit s, ms, us or ns" if unit else ""
            )
            reason = (
                f"time in {source.time_column!r} that is no date of the years 1 to 9999{advice}"
            )
            reject(reason, ~clock.is_date(time_N))
    if source.order_column is not None:
        order_N, readable_N = parse_integers(read(source.order_column))
        reject(f"unreadable whole number in column {source.order_column!r}", ~readable_N)

    kept_N: Longs | None = None if alive_N.all() else np.flatnonzero(alive_N)
    if histories is not None:
        kept_N = np.repeat(np.arange(num_rows), np.where(alive_N, size_N, 0))
        items = items.filter(pa.array(np.repeat(alive_N, size_N)))
        users = users.take(pa.array(kept_N))
    elif kept_N is not None:
        users, items = users.take(pa.array(kept_N)), items.take(pa.array(kept_N))
    if kept_N is not None:
        time_N = None if time_N is None else time_N[kept_N]
        order_N = None if order_N is None else order_N[kept_N]
    return Interpreted(Chunk(users, items, time_N, order_N), size_N, filtered, partial_dates, bad)


def _histories(values: pa.Array) -> tuple[pa.Array, Bools]:
    """A column of lists, each with at least one element, and which of them are empty histories.

    The element of an empty history is null. Text is split at blanks.
    """
    if pa.types.is_list_view(values.type) or pa.types.is_large_list_view(values.type):
        # The cast of Arrow 26 from views to lists is wrong.
        values = pa.array(values.to_pylist(), pa.list_(values.type.value_type))
    if not is_list(values.type):
        text = pc.ascii_trim_whitespace(pc.fill_null(values.cast(pa.string()), ""))
        no_list = pa.scalar(None, pa.list_(pa.string()))
        values = pc.if_else(pc.equal(text, ""), no_list, pc.ascii_split_whitespace(text))
    elif not pa.types.is_list(values.type):
        values = values.cast(pa.list_(values.type.value_type))
    is_empty = pc.equal(pc.fill_null(pc.list_value_length(values), 0), 0)
    is_empty_N = is_empty.to_numpy(zero_copy_only=False)
    if not is_empty_N.any():
        return values, is_empty_N
    one_null = pa.array([[None]], values.type)
    return pc.if_else(is_empty, one_null[0], values), is_empty_N


def _items_of(histories: pa.Array) -> tuple[pa.Array, Bools]:
    """The items of all histories in sequence, and which histories have nothing but good ids."""
    values, is_text_N = plain(histories.flatten())
    items, readable_N = parse_ids(values)
    row_N = pc.list_parent_indices(histories).to_numpy()
    bad_N = np.bincount(row_N[~(readable_N & is_text_N)], minlength=len(histories)) > 0
    return items, ~bad_N


def _no_id(noun: str, column: str, kind: pa.DataType) -> str:
    """The reason for which ids are refused."""
    reason = f"no {noun} id in column {column!r}"
    if pa.types.is_floating(kind):
        reason += f" of {kind}, which holds each whole number only up to a bound; expected integers"
        reason += " or text"
    return reason


def _numbered(prefix: str, start: int, num_rows: int) -> pa.Array:
    numbers = pa.array(np.arange(start + 1, start + num_rows + 1)).cast(pa.string())
    return pc.binary_join_element_wise(prefix, numbers, "")


def _unreadable_time(column: str, time_format: str, times: pa.Array, bad_N: Bools) -> str:
    """The reason for which times are refused, with a hint at what they may be instead."""
    if pa.types.is_timestamp(times.type) or pa.types.is_date(times.type):
        return f"no date of the years 1678 to 2262 in {column!r}"
    reason = f"unreadable time ({time_format}) in {column!r}"
    bad = times.filter(pa.array(bad_N))
    if time_format == "number" and pa.types.is_string(times.type) and len(bad):
        is_whole = pc.match_substring_regex(pc.fill_null(bad, ""), r"^\s*-?\d{16,}\s*$")
        if pc.all(is_whole).as_py():
            reason += "; these are whole numbers of 16 digits or more: give --time-format integer"
        is_date = pc.match_substring_regex(pc.fill_null(bad, ""), r"^\s*\d{4}-\d\d-\d\d")
        if pc.all(is_date).as_py():
            reason += "; these look like dates: give --time-format iso8601"
    return reason
