"""The values that pass between the readers and the rest of a build."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from zipfile import ZipFile

import numpy as np
import numpy.typing as npt
import pyarrow as pa

Part = Literal["train", "test"]


@dataclass(frozen=True)
class Chunk:
    """Some interactions in the order of the file.

    A build has times (`time_N`) in all of its chunks or in none, and likewise `order_N`.
    """

    users_N: pa.Array  # strings without nulls
    items_N: pa.Array  # strings without nulls
    time_N: npt.NDArray[np.int64] | None
    order_N: npt.NDArray[np.int64] | None


@dataclass(frozen=True)
class ZipMember:
    """A file inside a zip archive. It is read as a stream and never unpacked."""

    archive: Path
    member: str

    def __str__(self) -> str:
        return f"{self.archive}/{self.member}"


RawFile = Path | ZipMember


def open_raw(file: RawFile) -> pa.NativeFile:
    """A stream of the bytes of a file, decompressed if the name ends in .gz."""
    if isinstance(file, ZipMember):
        return pa.PythonFile(ZipFile(file.archive).open(file.member), mode="r")
    compression = "gzip" if file.suffix == ".gz" else None
    return pa.input_stream(str(file), compression=compression)


@dataclass
class Tally:
    """Running counts of the readers; `bad_rows` counts skipped rows by reason."""

    rows_read: int
    filtered_rows: int
    bad_rows: dict[str, int]
    first_bad_row: str | None = None

    def skip(self, reason: str, count: int) -> None:
        """Adds to the count of skipped rows."""
        if count:
            self.bad_rows[reason] = self.bad_rows.get(reason, 0) + count
