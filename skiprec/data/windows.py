"""Cuts histories into rows of at most `window` items, from the newest item back."""

from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import numpy.typing as npt

Longs = npt.NDArray[np.int64]
Value = TypeVar("Value", np.int32, np.int64)


@dataclass(frozen=True)
class RowPlan:
    """The rows to cut: row r holds the last `window` items, or fewer, of user_R[r] up to end_R[r].

    `end` is counted from 1: a row with end = 5 ends with the user's fifth item.
    """

    user_R: Longs
    end_R: Longs

    def select(self, chosen_R: npt.NDArray[np.bool_]) -> "RowPlan":
        """The chosen rows, in their present order."""
        return RowPlan(self.user_R[chosen_R], self.end_R[chosen_R])


def cut_from_end(length_U: Longs, window: int, min_items: int) -> RowPlan:
    """Rows that end at n, n - window, n - 2 * window ... for each history of n items.

    Rows do not overlap. The oldest row may be shorter than `window`; it is left out if it has fewer
    than `min_items` items. Rows are ordered by user, then from old to new.
    """
    full_U, rest_U = np.divmod(length_U, window)
    rows_U = full_U + (rest_U >= min_items)
    user_R = np.repeat(np.arange(len(length_U)), rows_U)
    newer_R = np.cumsum(rows_U)[user_R] - np.arange(len(user_R)) - 1
    return RowPlan(user_R, length_U[user_R] - newer_R * window)


def gather_rows(
    values_N: npt.NDArray[Value], start_U: Longs, plan: RowPlan, window: int
) -> npt.NDArray[Value]:
    """The items (or times) of the planned rows, left-padded with 0: `[R, W]`, of the same type.

    The history of user u begins at `values_N[start_U[u]]`.
    """
    position_RW = plan.end_R[:, None] - window + np.arange(window)
    source_RW = start_U[plan.user_R][:, None] + np.maximum(position_RW, 0)
    rows_RW: npt.NDArray[Value] = np.where(position_RW >= 0, values_N[source_RW], 0)
    return rows_RW.astype(values_N.dtype)
