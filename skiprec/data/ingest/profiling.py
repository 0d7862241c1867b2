"""Collects the facts of a dataset's profile while its rows are written, bucket by bucket."""

from datetime import UTC, datetime, timedelta

import numpy as np
import numpy.typing as npt

from skiprec.data.profile import Profile
from skiprec.data.schema import SPLIT_NAMES
from skiprec.data.windows import RowPlan

Longs = npt.NDArray[np.int64]

_QUANTILES = {"min": 0.0, "10 %": 0.1, "25 %": 0.25, "50 %": 0.5, "75 %": 0.75, "90 %": 0.9}


class Profiler:
    """Sums over the users that were added."""

    def __init__(self, num_items: int) -> None:
        self._num_items = num_items
        self._users_of_length: dict[int, int] = {}
        self._repeats = self._consecutive_repeats = 0
        self._target_count = {name: np.zeros(num_items + 1, np.int64) for name in SPLIT_NAMES}
        self._spans: dict[str, tuple[int, int]] = {}

    def add(
        self,
        item_N: npt.NDArray[np.int32],
        ms_N: Longs | None,
        length_U: Longs,
        rows: dict[str, RowPlan],
        window: int,
    ) -> None:
        """Adds some users: the items of their histories in sequence, the times, and the rows."""
        lengths, users = np.unique(length_U, return_counts=True)
        for length, count in zip(lengths.tolist(), users.tolist(), strict=True):
            self._users_of_length[length] = self._users_of_length.get(length, 0) + count
        user_N = np.repeat(np.arange(len(length_U)), length_U)
        pair_N = np.sort(user_N * np.int64(self._num_items + 1) + item_N)
        self._repeats += int((pair_N[1:] == pair_N[:-1]).sum())
        is_same_N = (item_N[1:] == item_N[:-1]) & (user_N[1:] == user_N[:-1])
        self._consecutive_repeats += int(is_same_N.sum())
        start_U = np.cumsum(length_U) - length_U
        for split, plan in rows.items():
            last_R = start_U[plan.user_R] + plan.end_R - 1
            counts = np.bincount(item_N[last_R], minlength=self._num_items + 1)
            self._target_count[split] += counts
            if ms_N is not None and len(last_R):
                first_R = start_U[plan.user_R] + np.maximum(0, plan.end_R - window)
                self._extend(split, ms_N[first_R if split == "train" else last_R], ms_N[last_R])

    def _extend(self, split: str, first_R: Longs, last_R: Longs) -> None:
        first, last = int(first_R.min()), int(last_R.max())
        low, high = self._spans.get(split, (first, last))
        self._spans[split] = min(low, first), max(high, last)

    def close(self, train_count: Longs, cut_offs: tuple[int, int] | None) -> Profile:
        """The profile; `train_count[i]` is how often the train rows hold item i."""
        is_unseen = train_count == 0
        return Profile(
            history_lengths=self._quantiles(),
            repeats=self._repeats,
            consecutive_repeats=self._consecutive_repeats,
            targets={split: int(counts.sum()) for split, counts in self._target_count.items()},
            unseen_targets={
                split: int(counts[is_unseen].sum()) for split, counts in self._target_count.items()
            },
            spans={
                split: (iso_text(self._spans[split][0]), iso_text(self._spans[split][1]))
                for split in SPLIT_NAMES
                if split in self._spans
            },
            cut_offs=None if cut_offs is None else (iso_text(cut_offs[0]), iso_text(cut_offs[1])),
        )

    def _quantiles(self) -> dict[str, int]:
        lengths = sorted(self._users_of_length)
        below = np.cumsum([self._users_of_length[length] for length in lengths])
        found = {
            name: lengths[int(np.searchsorted(below, share * below[-1], side="right"))]
            for name, share in _QUANTILES.items()
        }
        return found | {"max": lengths[-1]}


def iso_text(milliseconds: int) -> str:
    """Milliseconds since 1970 in ISO 8601, to the second; a number beyond the years 1 to 9999."""
    try:
        time = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=milliseconds)
    except OverflowError:
        return f"{milliseconds} ms"
    return time.strftime("%Y-%m-%dT%H:%M:%SZ")
