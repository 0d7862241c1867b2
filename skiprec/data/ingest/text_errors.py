"""Finds what is wrong with a text file by reading it a second time, slowly, with Python's `csv`.

Arrow's parser says neither in which line it failed, nor that a quote which nobody closed has
swallowed the lines behind it.
"""

import csv
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

from skiprec.data.ingest.columns import cut
from skiprec.data.ingest.raw_files import RawFile
from skiprec.data.ingest.recipe import TextSource
from skiprec.data.ingest.text_stream import lines_of

WRONG_WIDTH = "wrong number of fields"
_CLOSES_LATE = "closes in the middle of another field"
_IF_RIGHT = "; if the field is right, convert the file to Parquet"

# Judges rows by their fields: the index and the reason of the first bad one, None if all are good.
Judge = Callable[[list[list[str]]], tuple[int, str] | None]


@dataclass(frozen=True)
class Layout:
    """The positions of the wanted columns among the fields of a line."""

    lines_above: int  # lines up to the header, the header included
    num_fields: int
    positions: dict[str, int]


@dataclass(frozen=True)
class Row:
    """The fields of a row and the line on which it begins; blank lines are no rows."""

    line: int
    fields: list[str]
    is_open: bool  # whether the file ends inside of a quoted field
    is_strict: bool  # whether a separator follows the second quote of each of its quoted fields


def slow_rows(file: RawFile, source: TextSource) -> Iterator[Row]:
    """Every row of a text file, the header included."""
    csv.field_size_limit(sys.maxsize)  # a review may be longer than Python's limit of 128 kB
    at_end = False
    of_row: list[str] = []

    def lines() -> Iterator[str]:
        nonlocal at_end
        text = lines_of(file, source.encoding, source.separator)
        for number, line in enumerate(text, start=1):
            try:
                of_row.append(line.decode())
                yield of_row[-1]
            except UnicodeDecodeError as error:
                raise ValueError(
                    f"{file} line {number}: expected UTF-8 text: {error}; if it has another "
                    "encoding, name it: --encoding latin-1"
                ) from error
        at_end = True

    line, reader = 1, _csv_reader(lines(), source)
    for fields in reader:
        if fields:
            # The reader asks for a line behind the last one only inside of a quoted field.
            is_strict = len(of_row) == 1 or _is_strict(of_row, source)
            yield Row(line, fields, is_open=at_end, is_strict=is_strict)
        line = reader.line_num + 1
        of_row.clear()


def ends_in_quotes(line: bytes, source: TextSource) -> bool:
    """Whether a quoted field is open at the end of a line."""
    reader = _csv_reader(iter([line.decode(errors="replace"), '"']), source)
    next(reader)
    return bool(reader.line_num > 1)


def _csv_reader(lines: Iterator[str], source: TextSource, strict: bool = False) -> Any:
    return csv.reader(
        lines,
        delimiter=source.delimiter,
        quoting=csv.QUOTE_MINIMAL if source.quoted else csv.QUOTE_NONE,
        strict=strict,
    )


def _is_strict(lines: list[str], source: TextSource) -> bool:
    try:
        next(_csv_reader(iter(lines), source, strict=True))
    except csv.Error:
        return False
    return True


def refuse_swallowed_lines(file: RawFile, source: TextSource, layout: Layout, judge: Judge) -> None:
    """Raises ValueError if a quote that nobody meant has made one field of several rows.

    Such a quote is open at the end of the file, or text follows the quote that closed it, or its
    field holds whole rows, which are told from text by their time. Without a column of times, they
    are told by their separators; text in which the fields of a table fit by chance is then told by
    the other fields with line ends, which do not fit.
    """
    rows_of: dict[int, int] = {}  # line on which a field opens that looks like rows: how many
    others = 0
    has_times = source.time_column is not None
    rows_in = partial(_timed_rows_in, judge=judge) if has_times else _split_rows_in
    for row in slow_rows(file, source):
        if row.is_open:
            line = row.line + sum(field.count("\n") for field in row.fields[:-1])
            raise ValueError(_stray_quote(file, line, "is not closed before the end of the file"))
        line = row.line
        for index, field in enumerate(row.fields):
            if "\n" in field:
                swallowed = rows_in(row.fields, index, layout.num_fields, source.delimiter)
                others += not swallowed
                if swallowed:
                    rows_of[line] = swallowed
                elif not row.is_strict:
                    raise ValueError(_stray_quote(file, line, _CLOSES_LATE))
            line += field.count("\n")
    for line, count in rows_of.items():
        if has_times or not others or count >= 2:
            rows = "a whole row" if count == 1 else f"{count} whole rows"
            raise ValueError(_stray_quote(file, line, f"has swallowed {rows}", _IF_RIGHT))


def _timed_rows_in(
    fields: list[str], index: int, num_fields: int, separator: str, judge: Judge
) -> int:
    """How many rows of the table field `index` has swallowed; 0 if it is text.

    It then holds the rest of the row in which it opened, whole rows, and the fields of the row in
    which a second quote closed it. If there are whole rows, the two ends may hold anything.
    """

    def is_row(cells: list[str]) -> bool:
        return len(cells) == num_fields and judge([cells]) is None

    first, *whole, last = fields[index].split("\n")
    if num_whole := sum(is_row(line.split(separator)) for line in whole):
        return num_whole + 1
    opened = [*fields[:index], *first.split(separator)]
    closed = [*last.split(separator), *fields[index + 1 :]]
    return int(not any(whole) and is_row(opened) and is_row(closed))


def _split_rows_in(fields: list[str], index: int, num_fields: int, separator: str) -> int:
    """As `_timed_rows_in`, by the number of separators: all parts of the field must fit."""
    first, *whole, last = fields[index].split("\n")
    found = [first.count(separator), *(line.count(separator) for line in whole if line)]
    expected = [num_fields - 1 - index] + [num_fields - 1] * (len(found) - 1)
    return len(found) if found == expected and last.count(separator) == index else 0


def _stray_quote(file: RawFile, line: int, problem: str, more: str = "") -> str:
    return (
        f"{file} line {line}: a field that opens with a double quote here {problem}; expected a "
        "closing quote on the same line: if quotes are ordinary characters in this file, give "
        f"--no-quotes (source.quoted = false){more}"
    )


def explain(
    file: RawFile, source: TextSource, layout: Layout, judge: Judge, fallback: str = ""
) -> str:
    """The problem of the first bad line; `fallback` is said of a file without one."""
    lines: list[int] = []
    rows: list[list[str]] = []

    def first_bad() -> str | None:
        bad = judge(rows) if rows else None
        if bad is None:
            return None
        index, reason = bad
        text = cut(source.separator.join(rows[index]), 200)
        return (
            f"{file} line {lines[index]}: {reason}; expected {expectation(source)}; found {text!r}"
        )

    try:
        for number, row in enumerate(slow_rows(file, source)):
            if number == 0 and source.header:
                continue
            if problem := _misshapen(file, source, layout, row):
                return first_bad() or problem
            lines.append(row.line)
            rows.append(row.fields)
            if len(rows) == 100_000:
                if bad := first_bad():
                    return bad
                lines.clear()
                rows.clear()
        return first_bad() or f"{file} cannot be read as {expectation(source)}: {fallback}"
    except csv.Error as error:
        after = f"{file} after line {lines[-1] if lines else 0}"
        return first_bad() or f"{after}: expected {expectation(source)}: {error}"


def describe_long_row(file: RawFile, source: TextSource, block_bytes: int) -> str:
    """The longest row, of a file with a row that fits in no block."""
    longest = max(slow_rows(file, source), key=lambda row: sum(map(len, row.fields)))
    return (
        f"line {longest.line} holds a row of {sum(map(len, longest.fields)):,} characters; "
        f"expected rows of less than {block_bytes // 2:,} bytes: put long histories into Parquet "
        "or JSON lines, or, if quotes are ordinary characters in this file, give --no-quotes"
    )


def _misshapen(file: RawFile, source: TextSource, layout: Layout, row: Row) -> str | None:
    if row.is_open:
        line = row.line + sum(field.count("\n") for field in row.fields[:-1])
        return _stray_quote(file, line, "is not closed before the end of the file")
    if len(row.fields) != layout.num_fields:
        if not row.is_strict:
            return _stray_quote(file, row.line, _CLOSES_LATE)
        numbers = f"expected {layout.num_fields}, found {len(row.fields)}"
        return f"{file} line {row.line}: {WRONG_WIDTH}: {numbers}"
    return None


def expectation(source: TextSource) -> str:
    """What a text file of this source looks like, for error messages."""
    columns = ", ".join(repr(column) for column in source.columns())
    header = "a header with" if source.header else "lines with fields number"
    return f"{header} {columns} separated by {source.separator!r}"
