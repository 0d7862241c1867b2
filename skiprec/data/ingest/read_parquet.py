"""Reads Parquet files in batches of rows."""

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
    """The interactions of a Parquet file; `tally` counts them.

    Raises:
        ValueError: the file, or a row of it (counted from 1), cannot be read.
    """
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
    """Raises ValueError if the time columns of the files have types that cannot be compared.

    This happens with files of pandas, which turns a column of whole numbers into one of fractions
    if a single value is missing.
    """
    file_of: dict[str, Path] = {}
    for path in paths:
        try:
            schema = pyarrow.parquet.read_schema(path)
        except pa.ArrowInvalid:
            continue  # `read_parquet` raises the error
        if source.time_column in schema.names:
            file_of.setdefault(_kind_of_time(schema.field(source.time_column).type), path)
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
    return "dates" if pa.types.is_temporal(kind) else "text"
