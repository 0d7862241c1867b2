"""What every reader yields, and the errors that readers raise."""

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
    """Some interactions in file order; the key columns are there or not for a whole build."""

    users_N: pa.Array  # strings without nulls
    items_N: pa.Array  # strings without nulls
    time_N: npt.NDArray[np.int64] | None
    order_N: npt.NDArray[np.int64] | None


@dataclass(frozen=True)
class ZipMember:
    """A file inside a zip archive; it is read as a stream and never unpacked."""

    archive: Path
    member: str

    def __str__(self) -> str:
        return f"{self.archive}/{self.member}"


RawFile = Path | ZipMember


def open_raw(file: RawFile) -> pa.NativeFile:
    """The bytes of a file, decompressed if its name ends in .gz."""
    if isinstance(file, ZipMember):
        return pa.PythonFile(ZipFile(file.archive).open(file.member), mode="r")
    compression = "gzip" if file.suffix == ".gz" else None
    return pa.input_stream(str(file), compression=compression)


@dataclass
class Tally:
    """What the readers met; `bad_rows` counts skipped lines by reason."""

    rows_read: int
    filtered_rows: int
    bad_rows: dict[str, int]
    first_bad_row: str | None = None

    def skip(self, reason: str, count: int) -> None:
        """Count skipped rows."""
        if count:
            self.bad_rows[reason] = self.bad_rows.get(reason, 0) + count
