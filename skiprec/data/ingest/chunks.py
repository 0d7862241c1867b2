"""The values that pass between the readers and the rest of a build."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa

Part = Literal["train", "test"]
# Stands in a chunk for the item of a user without any, if `Tally.keeps_empty` says so.
NO_ITEM = ""


@dataclass(frozen=True)
class Chunk:
    """Some interactions in the order of the file.

    A build has times (`time_N`) in all of its chunks or in none, and likewise `order_N`.
    """

    users_N: pa.Array  # strings without nulls
    items_N: pa.Array  # strings without nulls
    time_N: npt.NDArray[np.int64] | None
    order_N: npt.NDArray[np.int64] | None


class EmptyInputError(ValueError):
    """A file has no rows. Of several files, one may be empty: some programs write such parts."""


@dataclass
class Tally:
    """Running counts of the readers.

    `bad_rows` counts skipped rows by reason, `partial_dates` those whose day or month is unknown.
    With `keeps_empty` an empty history is no bad row but one `NO_ITEM`.
    """

    rows_read: int
    filtered_rows: int
    bad_rows: dict[str, int]
    partial_dates: int = 0
    empty_files: int = 0
    first_bad_row: str | None = None
    keeps_empty: bool = False

    def skip(self, reason: str, count: int) -> None:
        """Adds to the count of skipped rows."""
        if count:
            self.bad_rows[reason] = self.bad_rows.get(reason, 0) + count
