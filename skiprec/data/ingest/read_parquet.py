"""Parquet files, streamed in batches of rows."""

from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet

from skiprec.data.ingest.chunks import Chunk, Tally
from skiprec.data.ingest.columns import locate_columns
from skiprec.data.ingest.recipe import ParquetSource
from skiprec.data.ingest.table import interpret


def read_parquet(
    path: Path, source: ParquetSource, tally: Tally, batch_rows: int
) -> Iterator[Chunk]:
    """The interactions of a Parquet file; errors name the file, the row (from 1) and why."""
    try:
        with pyarrow.parquet.ParquetFile(path, pre_buffer=False) as file:
            locate_columns(source.columns(), file.schema_arrow.names, str(path))
            start = 0
            for batch in file.iter_batches(batch_rows, columns=list(source.columns())):
                result = interpret(
                    dict(zip(batch.schema.names, batch.columns, strict=True)), source
                )
                if first := result.first_bad():
                    index, reason = first
                    problem = f"{path} row {start + index + 1}: {reason}"
                    if source.on_bad_row == "error":
                        row = {name: batch.column(name)[index].as_py() for name in source.columns()}
                        raise ValueError(f"{problem}; found {row}")
                    tally.first_bad_row = tally.first_bad_row or problem
                start += batch.num_rows
                tally.rows_read += batch.num_rows
                tally.filtered_rows += result.filtered
                for reason, rows in result.bad.items():
                    tally.skip(reason, len(rows))
                yield result.chunk
    except pa.ArrowInvalid as error:
        raise ValueError(f"{path}: expected a whole Parquet file: {error}") from error
    if start == 0:
        raise ValueError(f"{path} has no rows; expected at least one interaction")


def refuse_unlike_times(paths: list[Path], source: ParquetSource) -> None:
    """ValueError if the files' times are of types that do not order with each other.

    A column of whole numbers with one value missing becomes one of fractions in pandas.
    """
    found: dict[str, Path] = {}
    for path in paths:
        try:
            schema = pyarrow.parquet.read_schema(path)
        except pa.ArrowInvalid:
            continue  # reading it will say what is wrong
        if source.time_column in schema.names:
            found.setdefault(_kind_of_time(schema.field(source.time_column).type), path)
    if len(found) > 1:
        (first, path), (second, other), *_ = found.items()
        raise ValueError(
            f"column {source.time_column!r} holds {first} in {path} and {second} in {other}; "
            "expected one kind in all files, since they would be ordered by it"
        )


def _kind_of_time(kind: pa.DataType) -> str:
    if pa.types.is_integer(kind):
        return "whole numbers"
    if pa.types.is_floating(kind):
        return "fractions"
    return "dates" if pa.types.is_temporal(kind) else "text"
