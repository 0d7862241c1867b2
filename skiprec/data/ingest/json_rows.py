"""Reads JSON lines: an object on each line, whose keys are columns."""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from skiprec.data.ingest.columns import locate_columns, without_type
from skiprec.data.ingest.raw_files import RawFile
from skiprec.data.ingest.recipe import JsonSource
from skiprec.data.ingest.text_stream import lines_of

Longs = npt.NDArray[np.int64]


@dataclass
class _Batch:
    """Rows that are not yet columns: the values of each key, and the line of each row."""

    values: dict[str, list[Any]] = field(default_factory=dict)
    lines: list[int] = field(default_factory=list)
    size: int = 0  # number of values; those of a list count one by one

    def add(self, row: dict[str, Any], line: int) -> None:
        for key in row.keys() - self.values.keys():
            self.values[key] = [None] * len(self.lines)
        for key, values in self.values.items():
            value = row.get(key)
            values.append(value)
            self.size += len(value) if isinstance(value, list) else 1
        self.lines.append(line)


def json_batches(
    file: RawFile, source: JsonSource, most_values: int
) -> Iterator[tuple[pa.RecordBatch, Longs]]:
    """The wanted columns of a file in batches, and the number of the line of each row.

    A row may lack a key; its value is then null. Blank lines are no rows.

    Raises:
        ValueError: a line is no JSON object, or no row has one of the keys.
    """
    key_of: dict[str, str] = {}  # a column may have another name, such as user:token for user
    seen: dict[str, None] = {}  # all keys, in their order

    def locate(is_last: bool) -> None:
        is_strict = source.on_bad_row == "error"
        for column in source.columns():
            try:
                if column not in key_of:
                    place = locate_columns((column,), list(seen), str(file))[column]
                    key_of[column] = list(seen)[place]
            except ValueError:
                if is_last or (is_strict and column in _ids_and_times(source)):
                    raise

    wanted = set(source.columns())
    batch = _Batch()
    for line, row in _objects(file, source):
        seen.update(dict.fromkeys(row))
        batch.add({key: row[key] for key in row if {key, without_type(key)} & wanted}, line)
        if batch.size >= most_values:
            locate(is_last=False)
            yield _columns(batch, source, key_of), np.array(batch.lines)
            batch = _Batch()
    if seen:
        locate(is_last=True)
    if batch.lines:
        yield _columns(batch, source, key_of), np.array(batch.lines)


def begins_with_object(file: RawFile) -> bool:
    """Whether the first line that is not blank is a JSON object."""
    try:
        return isinstance(json.loads(next(filter(bytes.strip, lines_of(file)), b"")), dict)
    except ValueError:
        return False


def _objects(file: RawFile, source: JsonSource) -> Iterator[tuple[int, dict[str, Any]]]:
    for number, line in enumerate(lines_of(file, source.encoding), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise ValueError(f"{file} line {number}: expected a JSON object: {error}") from error
        if not isinstance(row, dict):
            raise ValueError(f"{file} line {number}: expected a JSON object, found {line[:80]!r}")
        yield number, row


def _columns(batch: _Batch, source: JsonSource, key_of: dict[str, str]) -> pa.RecordBatch:
    nothing = [None] * len(batch.lines)
    columns = {}
    for column in source.columns():
        values = batch.values.get(key_of.get(column, ""), nothing)
        typed = None if column in _ids_and_times(source) else _typed(values)
        columns[column] = _as_text(values) if typed is None else typed
    return pa.record_batch(columns)


def _ids_and_times(source: JsonSource) -> set[str | None]:
    """The columns that every row needs; conditions read the others."""
    return {source.user_column, source.item_column, source.time_column, source.order_column}


def _typed(values: list[Any]) -> pa.Array | None:
    """Values that are all booleans, or all numbers, as such; None if they are not."""
    kinds = {type(value) for value in values if value is not None}
    if kinds == {bool}:
        return pa.array(values, pa.bool_())
    try:
        if kinds == {int}:
            return pa.array(values, pa.int64())
        return pa.array(values, pa.float64()) if kinds and kinds <= {int, float} else None
    except (OverflowError, pa.ArrowInvalid):  # a whole number that no column of numbers holds
        return None


def _as_text(values: list[Any]) -> pa.Array:
    """Values as text, so that a column may mix numbers and text, or as lists of text.

    A column with an object is returned as Arrow types it, and refused later.
    """
    if any(isinstance(value, dict) for value in values):
        return pa.array([value if isinstance(value, dict) else None for value in values])
    if any(isinstance(value, list) for value in values):
        lists = [value.split() if isinstance(value, str) else value for value in values]
        texts = [
            [_text(item) for item in some] if isinstance(some, list) else None for some in lists
        ]
        return pa.array(texts, pa.list_(pa.string()))
    return pa.array([_text(value) for value in values], pa.string())


def _text(value: Any) -> str | None:
    """A value as text; None for what is no single value, NaN, a whole number written as a fraction
    that is too large for one, and half of a surrogate pair."""
    if isinstance(value, dict | list) or value != value:
        return None
    if value is None:
        return None
    if isinstance(value, str):
        return value if value.isascii() or _is_whole(value) else None
    if isinstance(value, float) and value.is_integer():
        return str(int(value)) if abs(value) < 2**53 else None  # 5.0 and 5 are one number in JSON
    return json.dumps(value)


def _is_whole(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
