"""Opens input files of any compression; what a file holds is told by its content."""

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
from typing import IO, Any, Literal, cast
from zipfile import BadZipFile, ZipFile

import pyarrow as pa

Content = Literal["parquet", "arrow", "jsonl", "text"]

_BLOCK = 1 << 16  # bytes that are read of a packed file
_ZIP = b"PK\x03\x04"
_ZSTD = b"\x28\xb5\x2f\xfd"
_ARROW_FILE, _ARROW_STREAM = b"ARROW1", b"\xff\xff\xff\xff"
# The longer marks come first: the mark of UTF-32 begins like that of UTF-16.
MARKS = {
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
    for mark in MARKS:
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
    if b"\0" in head and not is_wide and not any(head.startswith(mark) for mark in MARKS):
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
