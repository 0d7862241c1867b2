"""Opens input files of any compression and encoding; what a file holds is told by its content.

Every reader of text goes through `open_text`, so all of them read the same: without byte order
marks, as UTF-8, with lines that end in a line feed.
"""

import bz2
import codecs
import gzip
import io
import lzma
import os
import re
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, Any, Literal, Protocol, cast
from zipfile import BadZipFile, ZipFile

import numpy as np
import pyarrow as pa

Content = Literal["parquet", "arrow", "jsonl", "text"]

_WITHOUT_MARK = {"utf-16": "utf-16-le", "utf-32": "utf-32-le"}
FIELD_END = b"\x1f"  # ASCII's unit separator
_BLOCK = 1 << 16  # bytes that are read of a packed file
_ZIP = b"PK\x03\x04"
_ZSTD = b"\x28\xb5\x2f\xfd"
_ARROW_FILE, _ARROW_STREAM = b"ARROW1", b"\xff\xff\xff\xff"
# The longer marks come first: the mark of UTF-32 begins like that of UTF-16.
_MARKS = {
    codecs.BOM_UTF8: "utf-8",
    codecs.BOM_UTF32_LE: "utf-32-le",
    codecs.BOM_UTF32_BE: "utf-32-be",
    codecs.BOM_UTF16_LE: "utf-16-le",
    codecs.BOM_UTF16_BE: "utf-16-be",
}


@dataclass(frozen=True)
class ZipMember:
    """A file inside a zip archive. It is read as a stream and never unpacked."""

    archive: Path
    member: str

    def __str__(self) -> str:
        return f"{self.archive}/{self.member}"


RawFile = Path | ZipMember


class _Streams(io.RawIOBase):
    """The bytes of a file of compressed streams, one behind the other.

    Unlike `bz2.open` and `lzma.open`, it does not take a damaged stream for the end of the file.
    """

    def __init__(self, path: Path, decompressor: Callable[[], Any]) -> None:
        self._file = path.open("rb")
        self._new = decompressor
        self._stream = decompressor()

    def readable(self) -> bool:
        """True."""
        return True

    def close(self) -> None:
        """Closes the file."""
        self._file.close()
        super().close()

    def readinto(self, buffer: "memoryview | bytearray") -> int:  # type: ignore[override]
        """Fills a part of `buffer`; 0 at the end of the last stream."""
        while True:
            if self._stream.eof:
                packed = self._stream.unused_data.lstrip(b"\0")  # xz allows zeros between streams
                while not packed:
                    if not (block := self._file.read(_BLOCK)):
                        return 0
                    packed = block.lstrip(b"\0")
                self._stream = self._new()
            elif self._stream.needs_input:
                if not (packed := self._file.read(_BLOCK)):
                    raise EOFError("its last compressed stream has no end")
            else:
                packed = b""
            if piece := self._stream.decompress(packed, len(buffer)):
                buffer[: len(piece)] = piece
                return len(piece)


_COMPRESSIONS: dict[bytes, Callable[[Path], Any]] = {
    b"\x1f\x8b": gzip.open,
    b"BZh": partial(_Streams, decompressor=bz2.BZ2Decompressor),
    b"\xfd7zXZ\x00": partial(_Streams, decompressor=lzma.LZMADecompressor),
}


class _Source(Protocol):
    def read(self, size: int = -1, /) -> bytes: ...
    def close(self) -> None: ...


def expand_inputs(inputs: Sequence[Path]) -> list[Path]:
    """The files that some inputs name: files, folders of parts, patterns such as `part-*.csv`.

    The parts of a folder and the matches of a pattern are in the order of their paths. Hidden files
    and files that begin with an underscore, such as `_SUCCESS`, are no parts.

    Raises:
        ValueError: a folder has no parts, or no file matches a pattern.
    """
    return [file for given in inputs for file in _expand(given)]


def _expand(given: Path) -> Iterator[Path]:
    if given.is_dir():
        parts = [
            Path(folder) / name
            for folder, _, names in os.walk(given, followlinks=True)
            for name in names
        ]
        parts = sorted(part for part in parts if not _is_hidden(part.relative_to(given)))
        if not parts:
            raise ValueError(f"{given} is a folder without files; expected parts of a log in it")
        yield from parts
    elif not given.exists() and any(sign in str(given) for sign in "*?["):
        root = Path(given.anchor) if given.is_absolute() else Path()
        pattern = given.relative_to(root)
        found = (path.relative_to(root) for path in root.glob(str(pattern)))
        # A pattern that names a hidden folder means it; its signs alone match none.
        asked = {part for part in pattern.parts if _is_hidden(Path(part))}
        matches = sorted(
            root / path
            for path in found
            if not any(_is_hidden(Path(part)) for part in path.parts if part not in asked)
        )
        if not matches:
            raise ValueError(f"no file matches {given}; expected at least one")
        for match in matches:
            yield from _expand(match)
    else:
        yield given


def _is_hidden(path: Path) -> bool:
    return any(part.startswith((".", "_")) for part in path.parts)


def content_of(file: RawFile) -> Content:
    """What a file holds, from its first bytes (of a compressed file: of what is in it).

    Raises:
        ValueError: there is no such file, or it is damaged.
    """
    head = _head(file)
    if head.startswith(b"PAR1"):
        return "parquet"
    if head.startswith((_ARROW_FILE, _ARROW_STREAM)):
        return "arrow"
    for mark in _MARKS:
        head = head.removeprefix(mark)
    # Not "{" alone: Windows writes ids in braces.
    is_object = re.match(rb'\s*\{\s*("|\})', head.replace(b"\0", b""))
    return "jsonl" if is_object else "text"


def content_of_first(files: Sequence[RawFile]) -> Content:
    """What the first of some files holds that is not empty; the errors are those of `content_of`.

    Some programs write empty parts.
    """
    return content_of(next((file for file in files if _head(file)), files[0]))


def _head(file: RawFile) -> bytes:
    if isinstance(file, Path) and not file.is_file():
        raise ValueError(f"{file}: no such file; expected an input")
    with damage_named(file), open_bytes(file) as stream:
        return stream.read(4096)


def refuse_binary(file: RawFile, encoding: str) -> None:
    """Raises ValueError if a file that is read as text is none, or a JSON array."""
    head = _head(file)
    is_wide = codecs.lookup(encoding).name.startswith(("utf-16", "utf-32"))
    if b"\0" in head and not is_wide and not any(head.startswith(mark) for mark in _MARKS):
        raise ValueError(
            f"{file} holds zero bytes, so it is no text in {encoding}; expected text: if it is "
            "UTF-16 without a byte order mark, give --encoding utf-16, else convert it to CSV or "
            "Parquet"
        )
    if re.match(rb"\s*\[\s*\{\s*\"", head):
        raise ValueError(
            f"{file} holds a JSON array; expected JSON lines, an object on each line: convert it, "
            "for example with jq -c '.[]'"
        )


def is_packed(path: Path) -> bool:
    """Whether a file is compressed, or an archive."""
    with path.open("rb") as stream:
        return stream.read(6).startswith((_ZIP, _ZSTD, *_COMPRESSIONS))


@contextmanager
def damage_named(file: RawFile) -> Iterator[None]:
    """Turns an error of reading a damaged file into a ValueError that names the file."""
    try:
        yield
    except (pa.ArrowException, UnicodeError):
        raise  # about the content
    except (
        OSError,
        EOFError,
        BadZipFile,
        zlib.error,
        lzma.LZMAError,
        RuntimeError,  # an encrypted zip archive
        NotImplementedError,  # a compression that zipfile does not know
    ) as error:
        raise ValueError(
            f"{file} cannot be read to its end ({error}); expected a whole file: it may have "
            "been cut in a copy or a download, so copy it again"
        ) from error


def open_bytes(file: RawFile) -> IO[bytes]:
    """A stream of the bytes of a file: of gz, bz2, xz, zst, or a zip archive's only member.

    Raises:
        ValueError: a zip archive has no member or several.
    """
    if isinstance(file, ZipMember):
        return ZipFile(file.archive).open(file.member)
    with file.open("rb") as stream:
        head = stream.read(6)
    if head.startswith(_ZIP):
        return ZipFile(file).open(_only_member(file))
    if head.startswith(_ZSTD):
        return cast("IO[bytes]", pa.input_stream(str(file), compression="zstd"))
    for magic, opener in _COMPRESSIONS.items():
        if head.startswith(magic):
            return cast("IO[bytes]", opener(file))
    return file.open("rb", buffering=0)


def _only_member(archive: Path) -> str:
    with ZipFile(archive) as opened:
        names = [info.filename for info in opened.infolist() if not info.is_dir()]
    names = [name for name in names if not _is_hidden(Path(name))]  # such as __MACOSX/._log
    if len(names) != 1:
        raise ValueError(
            f"{archive} holds {len(names)} files ({', '.join(names[:5])}); expected one: "
            "unpack the archive and give the files"
        )
    return names[0]


class TextStream(io.RawIOBase):
    """The bytes of a text as UTF-8 with line feeds. It counts the lines that are not blank.

    Args:
        separator: of several characters; it is read as `FIELD_END`. Empty: there is none.

    Raises:
        ValueError: while reading, if the text is not in its encoding; names the line.
    """

    def __init__(self, file: RawFile, encoding: str, separator: str = "") -> None:
        self.file = file
        self.lines = 0
        self._raw = cast(_Source, open_bytes(file))
        head = self._raw.read(4)
        mark = next((mark for mark in _MARKS if head.startswith(mark)), b"")
        # Without a mark, Python knows no byte order: the one of Windows is the usual one.
        name = _MARKS.get(mark) or _WITHOUT_MARK.get(codecs.lookup(encoding).name, encoding)
        self.encoding = codecs.lookup(name).name
        self._decoder = None
        if self.encoding != "utf-8":
            self._decoder = codecs.getincrementaldecoder(self.encoding)()
        self._line = 1  # of the byte that is decoded next
        self._ends_in_return = False
        self._part_of_mark = b""  # what may be the start of a mark
        self._separator = separator.encode()
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
