"""Reads CSV, TSV and similar files in blocks.

When the fast parser of Arrow meets a bad row, the file is read again with Python's `csv`, slowly,
to find the first bad line.
"""

import csv
import io
import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, cast

import pyarrow as pa
import pyarrow.csv

from skiprec.data.ingest.chunks import Chunk, RawFile, Tally, open_raw
from skiprec.data.ingest.columns import locate_columns
from skiprec.data.ingest.recipe import TextSource
from skiprec.data.ingest.table import Interpreted, interpret

_WRONG_WIDTH = "wrong number of fields"
_GAP_FILLED = "text between the characters of the separator"


@dataclass(frozen=True)
class _Layout:
    """The positions of the wanted columns among the fields of a line.

    Arrow splits at one character. A separator such as "::" is read as ":", which makes an empty
    field in each gap.
    """

    lines_above: int  # lines up to the header, the header included
    num_fields: int
    positions: dict[str, int]
    gaps: tuple[int, ...]


def read_text(file: RawFile, source: TextSource, tally: Tally, block_bytes: int) -> Iterator[Chunk]:
    """The interactions of a text file; `tally` counts them, and skipped bad rows.

    Raises:
        ValueError: the file cannot be read, or a row of it and `on_bad_row` is "error". The message
            names the file, the line and what was expected.
    """
    layout = _read_layout(file, source)
    skips = source.on_bad_row == "skip"
    rows_before = tally.rows_read
    lock = threading.Lock()  # the parser may call the handler from several threads

    def on_wrong_width(_row: Any) -> str:
        with lock:
            tally.rows_read += 1
            tally.skip(_WRONG_WIDTH, 1)
        return "skip" if skips else "error"

    try:
        with _open_csv(file, source, layout, block_bytes, on_wrong_width) as reader:
            for batch in reader:
                result = _interpret(batch, source, layout)
                if result.bad and not skips:
                    raise ValueError(_explain(file, source, layout))
                tally.rows_read += batch.num_rows
                tally.filtered_rows += result.filtered
                for reason, rows in result.bad.items():
                    tally.skip(reason, len(rows))
                yield result.chunk
    except pa.ArrowInvalid as error:
        raise ValueError(_explain(file, source, layout, str(error))) from error
    if tally.rows_read == rows_before:
        raise ValueError(f"{file} has a header and no rows; expected {_expectation(source)}")
    if tally.bad_rows and tally.first_bad_row is None:
        tally.first_bad_row = _explain(file, source, layout)


def first_line_of_user(file: RawFile, source: TextSource, user: str) -> int:
    """The number of the line with a user's first interaction; the user has one."""
    field = _read_layout(file, source).positions[source.user_column]
    rows = _slow_rows(file, source)
    if source.header:
        next(rows)
    return next(line for line, row in rows if len(row) > field and row[field] == user)


def _read_layout(file: RawFile, source: TextSource) -> _Layout:
    rows = _slow_rows(file, source)
    try:
        line, first = next(rows)
    except StopIteration:
        raise ValueError(f"{file} is empty; expected {_expectation(source)}") from None
    step = len(source.separator)
    if source.header:
        names = first[::step]
        at = locate_columns(source.columns(), names, f"{file} line {line}")
    else:
        at = {column: int(column) - 1 for column in source.columns()}
        if (width := (len(first) + step - 1) // step) <= max(at.values()):
            raise ValueError(
                f"{file} line {line}: expected at least {max(at.values()) + 1} fields separated by "
                f"{source.separator!r}, found {width}"
            )
    gaps = tuple(field for field in range(len(first)) if field % step)
    positions = {name: index * step for name, index in at.items()}
    return _Layout(line if source.header else 0, len(first), positions, gaps)


def _open_csv(
    file: RawFile, source: TextSource, layout: _Layout, block_bytes: int, on_wrong_width: Any
) -> pyarrow.csv.CSVStreamingReader:
    names = [str(field) for field in range(layout.num_fields)]
    wanted = [str(field) for field in (*layout.positions.values(), *layout.gaps)]
    return pyarrow.csv.open_csv(
        open_raw(file),
        read_options=pyarrow.csv.ReadOptions(
            block_size=block_bytes, column_names=names, skip_rows=layout.lines_above
        ),
        parse_options=pyarrow.csv.ParseOptions(
            delimiter=source.separator[0],
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


def _interpret(batch: pa.RecordBatch, source: TextSource, layout: _Layout) -> Interpreted:
    columns = {name: batch.column(str(field)) for name, field in layout.positions.items()}
    for field in layout.gaps:
        if pa.compute.max(pa.compute.binary_length(batch.column(str(field)))).as_py():
            raise pa.ArrowInvalid(_GAP_FILLED)
    return interpret(columns, source)


def _explain(file: RawFile, source: TextSource, layout: _Layout, fallback: str = "") -> str:
    """The problem of the first bad line, which it finds by reading the file again, slowly."""
    lines: list[int] = []
    rows: list[list[str]] = []

    def first_bad() -> str | None:
        arrays = {
            name: pa.array([row[field] for row in rows], pa.string())
            for name, field in layout.positions.items()
        }
        bad = interpret(arrays, source).first_bad() if rows else None
        if bad is None:
            return None
        index, reason = bad
        text = source.separator[0].join(rows[index])
        return (
            f"{file} line {lines[index]}: {reason}; expected {_expectation(source)}; found {text!r}"
        )

    try:
        for number, (line, row) in enumerate(_slow_rows(file, source)):
            if number == 0 and source.header:
                continue
            problem = None
            if len(row) != layout.num_fields:
                step = len(source.separator)
                expected, found = ((n + step - 1) // step for n in (layout.num_fields, len(row)))
                problem = f"{file} line {line}: {_WRONG_WIDTH}: expected {expected}, found {found}"
            elif any(row[field] for field in layout.gaps):
                problem = f"{file} line {line}: {_GAP_FILLED} {source.separator!r}; found {row}"
            if problem:
                return first_bad() or problem
            lines.append(line)
            rows.append(row)
            if len(rows) == 100_000:
                if problem := first_bad():
                    return problem
                lines.clear()
                rows.clear()
        return first_bad() or f"{file} cannot be read as {_expectation(source)}: {fallback}"
    except csv.Error as error:
        after = f"{file} after line {lines[-1] if lines else 0}"
        return first_bad() or f"{after}: expected {_expectation(source)}: {error}"


def _slow_rows(file: RawFile, source: TextSource) -> Iterator[tuple[int, list[str]]]:
    """The number and the fields of every line that is not blank."""
    with open_raw(file) as stream:
        text = _decode_lines(file, io.BufferedReader(cast(Any, stream)))
        reader = csv.reader(
            text,
            delimiter=source.separator[0],
            quoting=csv.QUOTE_MINIMAL if source.quoted else csv.QUOTE_NONE,
        )
        for row in reader:
            if row:
                yield reader.line_num, row


def _decode_lines(file: RawFile, lines: Iterable[bytes]) -> Iterator[str]:
    for number, line in enumerate(lines, start=1):
        try:
            yield line.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError as error:
            raise ValueError(f"{file} line {number}: expected UTF-8 text: {error}") from error


def _expectation(source: TextSource) -> str:
    columns = ", ".join(repr(column) for column in source.columns())
    header = "a header with" if source.header else "lines with fields number"
    return f"{header} {columns} separated by {source.separator!r}"
