"""Reads CSV, TSV and similar files in blocks.

When the fast parser of Arrow meets a bad row, or the file has fewer rows than lines, the file is
read again by `text_errors.py`, which names the line.
"""

import threading
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pyarrow.csv

from skiprec.data.ingest.chunks import Chunk, EmptyInputError, Tally
from skiprec.data.ingest.columns import locate_columns
from skiprec.data.ingest.raw_files import RawFile
from skiprec.data.ingest.recipe import TextSource
from skiprec.data.ingest.table import interpret, note
from skiprec.data.ingest.text_errors import (
    WRONG_WIDTH,
    Judge,
    Layout,
    describe_long_row,
    ends_in_quotes,
    expectation,
    explain,
    refuse_swallowed_lines,
    slow_rows,
)
from skiprec.data.ingest.text_stream import TextStream, open_text


def read_text(
    file: RawFile, number: int, source: TextSource, tally: Tally, block_bytes: int
) -> Iterator[Chunk]:
    """The interactions of a text file; `tally` counts them, and skipped bad rows.

    Args:
        number: number of the file among the inputs, from 1.

    Raises:
        ValueError: the file cannot be read, or a row of it and `on_bad_row` is "error". The message
            names the file, the line and what was expected.
    """
    layout = _read_layout(file, source)
    skips = source.on_bad_row == "skip"
    # The parser calls the handler ahead of the batches, from several threads.
    rows, good_rows, lock = 0, 0, threading.Lock()

    def on_wrong_width(_row: Any) -> str:
        nonlocal rows
        with lock:
            rows += 1
            tally.rows_read += 1
            tally.skip(WRONG_WIDTH, 1)
        return "skip" if skips else "error"

    bad_before = len(tally.bad_rows)
    try:
        with open_text(file, source.encoding, source.separator) as stream:
            for batch in _open_csv(stream, source, layout, block_bytes, on_wrong_width):
                columns = {
                    name: batch.column(str(field)) for name, field in layout.positions.items()
                }
                result = interpret(columns, source, f"{number}:", good_rows, tally.keeps_empty)
                if result.bad and not skips:
                    judge = _judge(source, layout, tally.keeps_empty)
                    raise ValueError(explain(file, source, layout, judge))
                with lock:
                    rows += batch.num_rows
                good_rows += batch.num_rows
                note(result, tally)
                yield result.chunk
            has_line_ends_in_fields = stream.lines > rows + source.header
            last_line = stream.last_line()
    except pa.ArrowInvalid as error:
        reason = str(error)
        if "straddling" in reason:
            reason = describe_long_row(file, source, block_bytes)
        problem = explain(file, source, layout, _judge(source, layout), reason)
        raise ValueError(problem) from error
    if has_line_ends_in_fields or ends_in_quotes(last_line, source):
        refuse_swallowed_lines(file, source, layout, _judge(source, layout))
    if not rows:
        raise EmptyInputError(f"{file} has a header and no rows; expected {expectation(source)}")
    if len(tally.bad_rows) > bad_before and tally.first_bad_row is None:
        tally.first_bad_row = explain(file, source, layout, _judge(source, layout))


def first_line_of_user(file: RawFile, source: TextSource, user: str) -> int | None:
    """The number of the line with a user's first interaction; None if no column has users."""
    if source.user_column is None:
        return None
    field = _read_layout(file, source).positions[source.user_column]
    rows = slow_rows(file, source)
    if source.header:
        next(rows)
    return next(row.line for row in rows if len(row.fields) > field and row.fields[field] == user)


def _read_layout(file: RawFile, source: TextSource) -> Layout:
    try:
        first = next(slow_rows(file, source))
    except StopIteration:
        raise EmptyInputError(f"{file} is empty; expected {expectation(source)}") from None
    line, fields = first.line, first.fields
    if source.header:
        at = locate_columns(source.columns(), fields, f"{file} line {line}")
    else:
        at = {column: int(column) - 1 for column in source.columns()}
        if len(fields) <= max(at.values()):
            raise ValueError(
                f"{file} line {line}: expected at least {max(at.values()) + 1} fields separated by "
                f"{source.separator!r}, found {len(fields)}"
            )
    line += sum(field.count("\n") for field in fields)  # the header may have line breaks
    return Layout(line if source.header else 0, len(fields), at)


def _open_csv(
    stream: TextStream, source: TextSource, layout: Layout, block_bytes: int, on_wrong_width: Any
) -> pyarrow.csv.CSVStreamingReader:
    names = [str(field) for field in range(layout.num_fields)]
    wanted = [str(field) for field in layout.positions.values()]
    return pyarrow.csv.open_csv(
        pa.PythonFile(stream, mode="r"),
        read_options=pyarrow.csv.ReadOptions(
            block_size=block_bytes, column_names=names, skip_rows=layout.lines_above
        ),
        parse_options=pyarrow.csv.ParseOptions(
            delimiter=source.delimiter,
            quote_char='"' if source.quoted else False,
            invalid_row_handler=on_wrong_width,
            newlines_in_values=source.quoted,
        ),
        # Ids stay text, and types are never inferred: "007" and "7" are two items.
        convert_options=pyarrow.csv.ConvertOptions(
            column_types=dict.fromkeys(names, pa.string()),
            include_columns=wanted,
            strings_can_be_null=False,
        ),
    )


def _judge(source: TextSource, layout: Layout, keeps_empty: bool = False) -> Judge:
    def judge(rows: list[list[str]]) -> tuple[int, str] | None:
        columns = {
            name: pa.array([row[field] for row in rows], pa.string())
            for name, field in layout.positions.items()
        }
        return interpret(columns, source, "", 0, keeps_empty).first_bad()

    return judge
