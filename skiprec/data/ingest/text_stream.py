"""The text of an input file: every reader of text goes through `open_text`.

So all of them read the same: without byte order marks, as UTF-8, with lines that end in a line
feed.
"""

import codecs
import io
from collections.abc import Iterator
from typing import Protocol, cast

import numpy as np

from skiprec.data.ingest.raw_files import MARKS, RawFile, open_bytes

FIELD_END = b"\x1f"  # ASCII's unit separator
_WITHOUT_MARK = {"utf-16": "utf-16-le", "utf-32": "utf-32-le"}


class _Source(Protocol):
    def read(self, size: int = -1, /) -> bytes: ...
    def close(self) -> None: ...


class TextStream(io.RawIOBase):
    """The bytes of a text as UTF-8 with line feeds. It counts the lines that are not blank.

    Args:
        separator: between two fields; one of several characters is read as `FIELD_END`.

    Raises:
        ValueError: while reading, if the text is not in its encoding; names the line.
    """

    def __init__(self, file: RawFile, encoding: str, separator: str = "") -> None:
        self.file = file
        self.lines = 0
        self._raw = cast(_Source, open_bytes(file))
        head = self._raw.read(4)
        mark = next((mark for mark in MARKS if head.startswith(mark)), b"")
        # Without a mark, Python knows no byte order: the one of Windows is the usual one.
        name = MARKS.get(mark) or _WITHOUT_MARK.get(codecs.lookup(encoding).name, encoding)
        self.encoding = codecs.lookup(name).name
        self._decoder = None
        if self.encoding != "utf-8":
            self._decoder = codecs.getincrementaldecoder(self.encoding)()
        self._line = 1  # of the byte that is decoded next
        self._ends_in_return = False
        self._part_of_mark = b""  # what may be the start of a mark
        self._separator = separator.encode() if len(separator) > 1 else b""
        self._part_of_separator = b""
        self._recent = b"\n"
        self._ahead = head[len(mark) :]
        self._at_end = False
        self._pending = b""  # read, and not yet given to a buffer

    def readable(self) -> bool:
        """True."""
        return True

    def close(self) -> None:
        """Closes the file."""
        if not self.closed:
            self._raw.close()
        super().close()

    def read(self, size: int = -1) -> bytes:
        """About `size` bytes, at least one unless the text is at its end."""
        block = b""
        while not block and not self._at_end:
            raw = self._ahead + self._raw.read(size)
            self._ahead, self._at_end = b"", not raw
            block = self._without_marks(self._one_line_end(self._to_utf8(raw)))
            if self._separator:
                block = self._one_field_end(block)
        self._count(block)
        return block

    def readinto(self, buffer: "memoryview | bytearray") -> int:  # type: ignore[override]
        """Fills a part of `buffer`, for `io.BufferedReader`."""
        if not self._pending:
            self._pending = self.read(len(buffer))
        piece, self._pending = self._pending[: len(buffer)], self._pending[len(buffer) :]
        buffer[: len(piece)] = piece
        return len(piece)

    def _to_utf8(self, raw: bytes) -> bytes:
        if self._decoder is None:
            return raw
        try:
            text = self._decoder.decode(raw, final=not raw)
        except UnicodeDecodeError as error:
            before = raw[: error.start]
            line = self._line + (before.count(b"\n") or before.count(b"\r"))
            raise ValueError(
                f"{self.file} line {line}: expected text in {self.encoding}: {error}"
            ) from error
        self._line += text.count("\n") or text.count("\r")
        return text.encode()

    def _one_line_end(self, block: bytes) -> bytes:
        if self._ends_in_return:
            block = b"\r" + block
        self._ends_in_return = block.endswith(b"\r") and not self._at_end
        if self._ends_in_return:
            block = block[:-1]
        if b"\r" in block:
            block = block.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        return block

    def _without_marks(self, block: bytes) -> bytes:
        """A file that was joined of several may have a mark at the start of any line."""
        num_ahead = int(self._recent.endswith(b"\n"))
        text = b"\n" * num_ahead + self._part_of_mark + block
        text = text.replace(b"\n" + codecs.BOM_UTF8, b"\n")
        parts = () if self._at_end else (codecs.BOM_UTF8[:1], codecs.BOM_UTF8[:2])
        self._part_of_mark = next((part for part in parts if text.endswith(b"\n" + part)), b"")
        return text[num_ahead : len(text) - len(self._part_of_mark)]

    def _one_field_end(self, block: bytes) -> bytes:
        if FIELD_END in block:
            raise ValueError(
                f"{self.file} holds the character U+001F, which cannot be read beside a separator "
                f"of several characters, {self._separator.decode()!r}; remove it"
            )
        block = self._part_of_separator + block
        whole = block if self._at_end else block.rstrip(self._separator[:1])
        self._part_of_separator = block[len(whole) :]
        return whole.replace(self._separator, FIELD_END)

    def last_line(self) -> bytes:
        """The last line of a text that was read to its end; of a line above 64 kB, its end."""
        return self._recent.rstrip(b"\n").rpartition(b"\n")[2]

    def _count(self, block: bytes) -> None:
        if not block:
            self.lines += not self._recent.endswith(b"\n")
            return
        joined = self._recent[-1:] + block
        if b"\n\n" in joined:
            is_end = np.frombuffer(joined, np.uint8) == ord("\n")
            self.lines += int((is_end[1:] & ~is_end[:-1]).sum())
        else:
            self.lines += block.count(b"\n")
        self._recent = (self._recent + block)[-65_536:]


def open_text(file: RawFile, encoding: str = "utf-8", separator: str = "") -> TextStream:
    """The text of a file; a byte order mark overrides `encoding`."""
    return TextStream(file, encoding, separator)


def lines_of(file: RawFile, encoding: str = "utf-8", separator: str = "") -> Iterator[bytes]:
    """The lines of a text, each with its line feed."""
    with open_text(file, encoding, separator) as stream:
        yield from io.BufferedReader(stream, 1 << 20)
