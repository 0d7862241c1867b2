"""Reads text files with one history on each line, in blocks of whole lines."""

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from skiprec.data.ingest.chunks import Chunk, EmptyInputError, Tally
from skiprec.data.ingest.raw_files import RawFile
from skiprec.data.ingest.recipe import SequenceSource
from skiprec.data.ingest.text_stream import lines_of, open_text


def read_sequences(
    file: RawFile, file_number: int, source: SequenceSource, tally: Tally, block_bytes: int
) -> Iterator[Chunk]:
    """The histories of a file, oldest item first; blank lines are ignored.

    `tally.rows_read` counts items.

    Args:
        file_number: number of the file among the inputs, from 1. It is part of a user's id where
            the lines have no user field.

    Raises:
        ValueError: the file has no items, a user has none, or the text is not UTF-8.
    """
    first_line, found_any = 1, False
    for block in _blocks_of_lines(file, source, block_bytes):
        try:
            text = pa.array([block], pa.binary()).cast(pa.string())
        except pa.ArrowInvalid as error:
            raise ValueError(f"{_undecodable_line(file, block, first_line)}: {error}") from error
        lines = pc.split_pattern(text, "\n").flatten()
        fields = pc.ascii_split_whitespace(pc.ascii_trim_whitespace(lines))
        num_fields_R = np.array(pc.list_value_length(fields))
        values = fields.flatten()
        is_blank_R = np.array(pc.equal(pc.ascii_trim_whitespace(lines), "").to_pylist(), np.bool_)
        # A blank line splits into one empty field.
        start_R = np.cumsum(num_fields_R) - num_fields_R
        line_N = np.repeat(np.arange(len(lines)), num_fields_R)
        is_item_N = ~is_blank_R[line_N]
        if source.first_field_is_user:
            users = values.take(pa.array(start_R))
            is_item_N[start_R] = False
            lonely_R = np.flatnonzero((num_fields_R == 1) & ~is_blank_R)
            _note_lonely_users(file, lonely_R, first_line, users, source, tally)
        else:
            numbers = pa.array(np.arange(first_line, first_line + len(lines))).cast(pa.string())
            users = pc.binary_join_element_wise(str(file_number), numbers, ":")
        items = values.filter(pa.array(is_item_N))
        if len(items):
            found_any = True
            tally.rows_read += len(items)
            yield Chunk(users.take(pa.array(line_N[is_item_N])), items, None, None)
        first_line += block.count(b"\n")
    if not found_any:
        raise EmptyInputError(
            f"{file} has no items; expected one history on each line, its items separated by blanks"
        )


def first_line_with_items(file: RawFile, source: SequenceSource) -> int:
    """The number of the first line with a history; the file has one."""
    lines = enumerate(lines_of(file, source.encoding), start=1)
    return next(number for number, line in lines if line.strip())


def _blocks_of_lines(file: RawFile, source: SequenceSource, block_bytes: int) -> Iterator[bytes]:
    """The file in pieces of about `block_bytes`, each of whole lines."""
    rest = b""
    with open_text(file, source.encoding) as stream:
        while block := stream.read(block_bytes):
            head, newline, tail = (rest + block).rpartition(b"\n")
            rest = tail
            if newline:
                yield head + newline
    if rest:
        yield rest


def _note_lonely_users(
    file: RawFile,
    lonely_R: npt.NDArray[np.int64],
    first_line: int,
    users: pa.Array,
    source: SequenceSource,
    tally: Tally,
) -> None:
    if not len(lonely_R):
        return
    problem = (
        f"{file} line {first_line + int(lonely_R[0])}: user {users[int(lonely_R[0])].as_py()!r} "
        "without items; expected a user and at least one item"
    )
    if source.on_bad_row == "error":
        raise ValueError(problem)
    tally.rows_read += len(lonely_R)
    tally.skip("user without items", len(lonely_R))
    tally.first_bad_row = tally.first_bad_row or problem


def _undecodable_line(file: RawFile, block: bytes, first_line: int) -> str:
    for offset, line in enumerate(block.split(b"\n")):
        try:
            line.decode()
        except UnicodeDecodeError:
            return f"{file} line {first_line + offset}: expected UTF-8 text"
    raise AssertionError("Arrow and Python disagree on what UTF-8 is")
