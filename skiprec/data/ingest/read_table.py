"""Reads files whose columns have names and types: Parquet, Arrow IPC and JSON lines."""

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet

from skiprec.data.ingest.chunks import Chunk, EmptyInputError, Tally
from skiprec.data.ingest.columns import cut, locate_columns
from skiprec.data.ingest.conditions import apply_condition, parse_condition
from skiprec.data.ingest.json_rows import json_batches
from skiprec.data.ingest.parsing import is_list, plain, plain_type
from skiprec.data.ingest.raw_files import RawFile, is_packed
from skiprec.data.ingest.recipe import JsonSource, TypedSource
from skiprec.data.ingest.table import interpret, note

_END_OF_STREAM = b"\xff\xff\xff\xff\0\0\0\0"
_NESTED = (pa.types.is_struct, pa.types.is_map, pa.types.is_union, is_list)


def read_table(
    file: RawFile, number: int, source: TypedSource, tally: Tally, batch_items: int
) -> Iterator[Chunk]:
    """The interactions of a file of typed columns; `tally` counts them.

    Args:
        number: number of the file among the inputs, from 1.
        batch_items: about how many interactions are read at a time.

    Raises:
        ValueError: the file, or a row of it (counted from 1; of JSON its line), cannot be read.
    """
    start = 0
    for batch, line_N in _batches(file, source, batch_items):
        columns = dict(zip(batch.schema.names, batch.columns, strict=True))
        if start == 0 or isinstance(source, JsonSource):
            refuse_types(batch.schema, source, file)
        try:
            result = interpret(columns, source, f"{number}:", start, tally.keeps_empty)
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
            types = ", ".join(f"{field.name}: {field.type}" for field in batch.schema)
            raise ValueError(f"{file}: a column cannot be read ({types}): {error}") from error
        if first := result.first_bad():
            index, reason = first
            row = f"row {start + index + 1}" if line_N is None else f"line {line_N[index]}"
            problem = f"{file} {row}: {reason}"
            if source.on_bad_row == "error":
                found = {name: column[index].as_py() for name, column in columns.items()}
                raise ValueError(f"{problem}; found {cut(str(found))}")
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
        with _open_ipc(_unpacked(file, source)) as reader:
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
            if column == source.item_column and is_list(kind) and not is_history:
                hint = " (if a row holds a whole history, give --row-holds history)"
            raise ValueError(
                f"{file}: column {column!r} holds {kind}; expected one value in each row, such as "
                f"text or a number{hint}"
            )
    if source.time_column and pa.types.is_boolean(schema.field(source.time_column).type):
        raise ValueError(f"{file}: column {source.time_column!r} holds bool; expected times")
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


def _batches(
    file: RawFile, source: TypedSource, batch_items: int
) -> Iterator[tuple[pa.RecordBatch, npt.NDArray[np.int64] | None]]:
    """The wanted columns of a file, some rows at a time; of JSON, also the line of each row."""
    if isinstance(source, JsonSource):
        yield from json_batches(file, source, batch_items)
        return
    names = schema_of(file, source).names
    # A column may have another name in the file, such as user:token for user.
    name_of = {
        column: names[place]
        for column, place in locate_columns(source.columns(), names, str(file)).items()
    }
    with _content_named(file, source):
        for batch in _arrow_batches(
            _unpacked(file, source), source, list(name_of.values()), batch_items
        ):
            columns = [batch.column(name) for name in name_of.values()]
            renamed = pa.record_batch(columns, names=list(name_of))
            for piece in _pieces(renamed, source, batch_items):
                yield piece, None


def _pieces(
    batch: pa.RecordBatch, source: TypedSource, batch_items: int
) -> Iterator[pa.RecordBatch]:
    """The batch in pieces of about `batch_items` interactions, of which a row may have many."""
    if source.row_holds != "history" or not batch.num_rows:
        yield batch
        return
    values = batch.column(source.item_column)
    if is_list(values.type):
        size_N = pc.fill_null(pc.list_value_length(values), 0).to_numpy(zero_copy_only=False)
    else:  # two bytes of text are an item and a blank, at least
        text = plain(values)[0].cast(pa.string())
        size_N = pc.fill_null(pc.binary_length(text), 0).to_numpy(zero_copy_only=False) // 2
    piece_N = np.cumsum(size_N.astype(np.int64)) // batch_items
    starts = [0, *(np.flatnonzero(np.diff(piece_N)) + 1).tolist(), batch.num_rows]
    for start, end in pairwise(starts):
        yield batch.slice(start, end - start)


def _arrow_batches(
    file: Path, source: TypedSource, names: list[str], batch_rows: int
) -> Iterator[pa.RecordBatch]:
    if source.kind == "parquet":
        with pyarrow.parquet.ParquetFile(file, pre_buffer=False) as opened:
            yield from opened.iter_batches(batch_rows, columns=names)
    else:
        for batch in _ipc_batches(file):
            for start in range(0, batch.num_rows, batch_rows):
                yield batch.select(names).slice(start, batch_rows)


def _open_ipc(file: Path) -> Any:
    """A reader of an Arrow IPC file, or of the first Arrow stream in a file."""
    mapped = pa.memory_map(str(file))
    return pa.ipc.open_file(mapped) if _is_ipc_file(file) else pa.ipc.open_stream(mapped)


def _is_ipc_file(file: Path) -> bool:
    with file.open("rb") as stream:
        return stream.read(6) == b"ARROW1"


def _ipc_batches(file: Path) -> Iterator[pa.RecordBatch]:
    """The batches of an Arrow IPC file, or of the Arrow streams that lie behind each other in one.

    Raises:
        ValueError: a stream has no end marker, or other columns than the one before it.
    """
    if _is_ipc_file(file):
        with _open_ipc(file) as reader:
            yield from (reader.get_batch(index) for index in range(reader.num_record_batches))
        return
    mapped, schema = pa.memory_map(str(file)), _open_ipc(file).schema
    while mapped.tell() < mapped.size():
        with pa.ipc.open_stream(mapped) as reader:
            if reader.schema != schema:
                raise ValueError(
                    f"{file} holds several Arrow streams; expected the columns of the first one, "
                    f"{schema.names}, in all of them, found {reader.schema.names}: split the file"
                )
            yield from reader
        mapped.seek(mapped.tell() - len(_END_OF_STREAM))
        if mapped.read(len(_END_OF_STREAM)) != _END_OF_STREAM:
            raise ValueError(
                f"{file}: an Arrow stream has no end marker; expected a whole one: its writer was "
                "not closed, or the file was cut"
            )
