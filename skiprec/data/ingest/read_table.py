"""Reads files whose columns have names and types: Parquet, Arrow IPC and JSON lines."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet

from skiprec.data.ingest.chunks import Chunk, EmptyInputError, Tally
from skiprec.data.ingest.columns import locate_columns
from skiprec.data.ingest.conditions import apply_condition, parse_condition
from skiprec.data.ingest.parsing import is_list, plain, plain_type
from skiprec.data.ingest.raw_files import RawFile, is_packed, lines_of
from skiprec.data.ingest.recipe import JsonSource, TypedSource
from skiprec.data.ingest.table import interpret, note

_NESTED = (pa.types.is_struct, pa.types.is_map, pa.types.is_union, is_list)


def read_table(
    file: RawFile, number: int, source: TypedSource, tally: Tally, batch_rows: int
) -> Iterator[Chunk]:
    """The interactions of a file of typed columns; `tally` counts them.

    Args:
        number: number of the file among the inputs, from 1.

    Raises:
        ValueError: the file, or a row of it (counted from 1), cannot be read.
    """
    start = 0
    for batch in _batches(file, source, batch_rows):
        columns = dict(zip(batch.schema.names, batch.columns, strict=True))
        if start == 0 or isinstance(source, JsonSource):
            refuse_types(batch.schema, source, file)
        try:
            result = interpret(columns, source, f"{number}:", start)
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
            types = ", ".join(f"{field.name}: {field.type}" for field in batch.schema)
            raise ValueError(f"{file}: a column cannot be read ({types}): {error}") from error
        if first := result.first_bad():
            index, reason = first
            problem = f"{file} row {start + index + 1}: {reason}"
            if source.on_bad_row == "error":
                row = {name: column[index].as_py() for name, column in columns.items()}
                raise ValueError(f"{problem}; found {row}")
            tally.first_bad_row = tally.first_bad_row or problem
        start += batch.num_rows
        note(result, tally)
        yield result.chunk
    if start == 0:
        raise EmptyInputError(f"{file} has no rows; expected at least one interaction")


def schema_of(file: RawFile, source: TypedSource) -> pa.Schema:
    """The columns of a Parquet or Arrow file and their types.

    Raises:
        ValueError: the file is packed, or is not what the source says.
    """
    with _content_named(file, source):
        if source.kind == "parquet":
            return pyarrow.parquet.read_schema(_unpacked(file, source))
        with _open_arrow(_unpacked(file, source)) as reader:
            return reader.schema


@contextmanager
def _content_named(file: RawFile, source: TypedSource) -> Iterator[None]:
    """Turns an error of Arrow's readers into a ValueError that names the file."""
    try:
        yield
    except pa.ArrowInvalid as error:
        raise ValueError(f"{file}: expected a whole file of {source.kind}: {error}") from error


def _unpacked(file: RawFile, source: TypedSource) -> Path:
    if not isinstance(file, Path) or is_packed(file):
        raise ValueError(f"{file}: {source.kind} is not read from an archive; unpack it first")
    return file


def refuse_types(schema: pa.Schema, source: TypedSource, file: RawFile) -> None:
    """Raises ValueError if a column has a type that cannot be what the recipe takes it for."""
    for column in source.columns():
        kind = schema.field(column).type
        is_history = column == source.item_column and source.row_holds == "history"
        if is_history and is_list(kind):
            kind = kind.value_type
        elif is_history and not pa.types.is_string(plain_type(kind)):
            raise ValueError(
                f"{file}: column {column!r} holds {kind}; expected a history in each row: a list, "
                "or text with blanks between the items"
            )
        if any(is_nested(kind) for is_nested in _NESTED):
            hint = ""
            if column == source.item_column and is_list(kind):
                hint = " (if a row holds a whole history, give --row-holds history)"
            raise ValueError(
                f"{file}: column {column!r} holds {kind}; expected one value in each row, such as "
                f"text or a number{hint}"
            )
    for text in source.keep:
        condition = parse_condition(text)
        try:
            apply_condition(condition, plain(pa.array([], schema.field(condition.column).type))[0])
        except ValueError as error:
            raise ValueError(f"{file}: {error}") from error


def refuse_unlike_times(files: list[Path], source: TypedSource) -> None:
    """Raises ValueError if the time columns of the files have types that cannot be compared.

    This happens with files of pandas, which turns a column of whole numbers into one of fractions
    if a single value is missing.
    """
    file_of: dict[str, Path] = {}
    for file in files:
        schema = schema_of(file, source)
        if source.time_column in schema.names:
            kind = plain_type(schema.field(source.time_column).type)
            if not pa.types.is_null(schema.field(source.time_column).type):
                file_of.setdefault(_kind_of_time(kind), file)
    if len(file_of) > 1:
        (first, path), (second, other), *_ = file_of.items()
        raise ValueError(
            f"column {source.time_column!r} holds {first} in {path} and {second} in {other}; "
            "expected one type in all files, because rows are ordered by it: convert one file"
        )


def _kind_of_time(kind: pa.DataType) -> str:
    if pa.types.is_integer(kind):
        return "whole numbers"
    if pa.types.is_floating(kind):
        return "fractions"
    if pa.types.is_time(kind) or pa.types.is_duration(kind):
        return str(kind)
    return "dates" if pa.types.is_temporal(kind) else "text"


def _batches(file: RawFile, source: TypedSource, batch_rows: int) -> Iterator[pa.RecordBatch]:
    """The wanted columns of a file, some rows at a time."""
    if isinstance(source, JsonSource):
        yield from _json_batches(file, source, batch_rows)
        return
    names = schema_of(file, source).names
    # A column may have another name in the file, such as user:token for user.
    name_of = {
        column: names[place]
        for column, place in locate_columns(source.columns(), names, str(file)).items()
    }
    with _content_named(file, source):
        for batch in _arrow_batches(
            _unpacked(file, source), source, list(name_of.values()), batch_rows
        ):
            columns = [batch.column(name) for name in name_of.values()]
            yield pa.record_batch(columns, names=list(name_of))


def _arrow_batches(
    file: Path, source: TypedSource, names: list[str], batch_rows: int
) -> Iterator[pa.RecordBatch]:
    if source.kind == "parquet":
        with pyarrow.parquet.ParquetFile(file, pre_buffer=False) as opened:
            yield from opened.iter_batches(batch_rows, columns=names)
    else:
        with _open_arrow(file) as reader:
            for batch in _each_batch(reader):
                for start in range(0, batch.num_rows, batch_rows):
                    yield batch.select(names).slice(start, batch_rows)


def _open_arrow(file: Path) -> Any:
    """A reader of an Arrow IPC file, or of an Arrow stream in a file."""
    with file.open("rb") as stream:
        is_file = stream.read(6) == b"ARROW1"
    mapped = pa.memory_map(str(file))
    return pa.ipc.open_file(mapped) if is_file else pa.ipc.open_stream(mapped)


def _each_batch(reader: Any) -> Iterator[pa.RecordBatch]:
    if isinstance(reader, pa.RecordBatchFileReader):
        yield from (reader.get_batch(index) for index in range(reader.num_record_batches))
    else:
        yield from reader


def _json_batches(file: RawFile, source: JsonSource, batch_rows: int) -> Iterator[pa.RecordBatch]:
    """The wanted columns of JSON lines; blank lines are no rows."""
    rows = _json_rows(file, source)
    is_first = True
    while piece := list(islice(rows, batch_rows)):
        if is_first:
            names = dict.fromkeys(name for row in piece for name in row)
            at = locate_columns(source.columns(), list(names), str(file))
            key_of = {column: list(names)[place] for column, place in at.items()}
            is_first = False
        columns = {column: [row.get(key) for row in piece] for column, key in key_of.items()}
        yield pa.record_batch({name: _json_column(values) for name, values in columns.items()})


def _json_rows(file: RawFile, source: JsonSource) -> Iterator[dict[str, Any]]:
    for number, line in enumerate(lines_of(file, source.encoding), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise ValueError(f"{file} line {number}: expected a JSON object: {error}") from error
        if not isinstance(row, dict):
            raise ValueError(f"{file} line {number}: expected a JSON object, found {line[:80]!r}")
        yield row


def _json_column(values: list[Any]) -> pa.Array:
    """Values as text, so that a column may mix numbers and text, or as lists of text.

    A column with an object is returned as Arrow types it, and refused later.
    """
    if any(isinstance(value, dict) for value in values):
        return pa.array([value if isinstance(value, dict) else None for value in values])
    if any(isinstance(value, list) for value in values):
        lists = [value.split() if isinstance(value, str) else value for value in values]
        return pa.array(
            [
                [_json_text(item) for item in some] if isinstance(some, list) else None
                for some in lists
            ],
            pa.list_(pa.string()),
        )
    return pa.array([_json_text(value) for value in values], pa.string())


def _json_text(value: Any) -> str | None:
    """A value of JSON as text; None for what is no single value, and for NaN."""
    if isinstance(value, dict | list) or value != value:
        return None
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
        return str(int(value))  # 5.0 and 5 are one number in JSON
    return json.dumps(value)
