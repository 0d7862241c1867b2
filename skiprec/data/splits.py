"""The splits: pure functions from lengths of histories and hashes of users to rows."""

from dataclasses import dataclass
from typing import Annotated, Literal, Self

import numpy as np
import numpy.typing as npt
from pydantic import Field, model_validator

from skiprec.config.section import Section
from skiprec.data.hashing import Hashes, keyed_uniform, mix
from skiprec.data.windows import RowPlan, cut_from_end

Longs = npt.NDArray[np.int64]
Seed = Annotated[int, Field(ge=0, lt=2**63)]
Fraction = Annotated[float, Field(ge=0, lt=1)]


class _Fractions(Section):
    validation_frac: Fraction = 0.1
    """Expected share of users (`by_user`) or rows (`by_window`) in validation, below 1."""
    test_frac: Fraction = 0.1
    """Expected share of users or rows in test; its sum with `validation_frac` is below 1."""
    seed: Seed = 0
    """Seed of the draw."""

    @model_validator(mode="after")
    def _something_is_left_to_train_on(self) -> Self:
        if self.validation_frac + self.test_frac >= 1:
            raise ValueError(
                f"validation_frac {self.validation_frac} + test_frac {self.test_frac} leaves "
                "nothing to train on; expected a sum below 1"
            )
        return self


class ByUser(_Fractions):
    """All rows of a user are in one split, drawn by a keyed hash of the user's original id."""

    kind: Literal["by_user"] = "by_user"
    """All rows of a user are in one split, which is drawn for each user."""


class ByWindow(_Fractions):
    """Each row has a split of its own, drawn by a keyed hash of (user, end), as in the slides.

    A user's other rows may be in train, so this split measures an easier task than `by_user`.
    """

    kind: Literal["by_window"] = "by_window"
    """The split is drawn for each row; a user may have rows in several splits."""


class LeaveOneOut(Section):
    """The last item of each user is the test target, the one before it the validation target.

    A user with fewer than `min_items + 2` items has none to spare: all of them are trained on.
    """

    kind: Literal["leave_one_out"] = "leave_one_out"
    """The last item of each user is the test target, the item before it the validation target."""


class Given(Section):
    """Train and test files are given; the users of validation are drawn from the train files.

    A user in both has one history, with the train items first. Test rows end at a test item and may
    reach back to train items. Train rows hold train items only.
    """

    kind: Literal["given"] = "given"
    """Train files and test files are given; validation is drawn from the users of the train
    files."""
    validation_frac: Fraction = 0.1
    """Expected share of the users of the train files in validation; from 0 to below 1."""
    seed: Seed = 0
    """Seed of the draw."""


SplitConfig = Annotated[ByUser | ByWindow | LeaveOneOut | Given, Field(discriminator="kind")]


@dataclass(frozen=True)
class SplitPlan:
    """The rows of every split, and the numbers of interactions and users that are in none."""

    rows: dict[str, RowPlan]
    leftover_interactions: int
    users_without_evaluation: int


def plan_splits(
    config: ByUser | ByWindow | LeaveOneOut | Given,
    hash_U: Hashes,
    length_U: Longs,
    test_length_U: Longs,
    window: int,
    min_items: int,
) -> SplitPlan:
    """The rows of `train`, `validation` and `test` for some users, each ordered by (user, end).

    The rows of a user depend on that user alone.

    Args:
        test_length_U: number of items at the end of each history that came from a test file; 0 for
            every split except `given`.
    """
    match config:
        case LeaveOneOut():
            return _leave_one_out(length_U, window, min_items)
        case Given():
            return _given(config, hash_U, length_U, test_length_U, window, min_items)
        case ByUser() | ByWindow():
            return _by_hash(config, hash_U, length_U, window, min_items)


def _by_hash(
    config: ByUser | ByWindow, hash_U: Hashes, length_U: Longs, window: int, min_items: int
) -> SplitPlan:
    rows = cut_from_end(length_U, window, min_items)
    hash_R = hash_U[rows.user_R]
    if isinstance(config, ByWindow):
        hash_R = mix(hash_R ^ rows.end_R.astype(np.uint64))
    draw_R = keyed_uniform(hash_R, config.seed)
    is_test_R = draw_R < config.test_frac
    is_validation_R = ~is_test_R & (draw_R < config.test_frac + config.validation_frac)
    split = {
        "train": rows.select(~is_test_R & ~is_validation_R),
        "validation": rows.select(is_validation_R),
        "test": rows.select(is_test_R),
    }
    return SplitPlan(split, _uncovered(length_U, rows, window), 0)


def _leave_one_out(length_U: Longs, window: int, min_items: int) -> SplitPlan:
    can_spare_U = length_U >= min_items + 2
    train_length_U = np.where(can_spare_U, length_U - 2, length_U)
    train = cut_from_end(train_length_U, window, min_items)
    user_R = np.flatnonzero(can_spare_U)
    split = {
        "train": train,
        "validation": RowPlan(user_R, length_U[user_R] - 1),
        "test": RowPlan(user_R, length_U[user_R]),
    }
    # The validation row may reach back over the items that no train row holds; those are inputs
    # then, and no leftovers.
    reach_U = np.maximum(length_U - 1 - window, 0)
    train_start_U = train_length_U - _covered(train_length_U, train, window)
    start_U = np.where(can_spare_U, np.minimum(train_start_U, reach_U), train_start_U)
    return SplitPlan(split, int(start_U.sum()), int((~can_spare_U).sum()))


def _given(
    config: Given,
    hash_U: Hashes,
    length_U: Longs,
    test_length_U: Longs,
    window: int,
    min_items: int,
) -> SplitPlan:
    train_length_U = length_U - test_length_U
    known = cut_from_end(train_length_U, window, min_items)
    is_validation_R = keyed_uniform(hash_U[known.user_R], config.seed) < config.validation_frac
    whole = cut_from_end(length_U, window, min_items)
    test = whole.select(whole.end_R > train_length_U[whole.user_R])
    split = {
        "train": known.select(~is_validation_R),
        "validation": known.select(is_validation_R),
        "test": test,
    }
    test_start_U = length_U - _covered(length_U, test, window)
    train_left_U = train_length_U - _covered(train_length_U, known, window)
    left_U = np.minimum(train_left_U, test_start_U) + np.maximum(test_start_U - train_length_U, 0)
    return SplitPlan(split, int(left_U.sum()), 0)


def _covered(length_U: Longs, rows: RowPlan, window: int) -> Longs:
    """Number of items at the end of each history that are in a row cut from its end."""
    rows_U = np.bincount(rows.user_R, minlength=len(length_U))
    return np.minimum(rows_U * window, length_U)


def _uncovered(length_U: Longs, rows: RowPlan, window: int) -> int:
    return int((length_U - _covered(length_U, rows, window)).sum())
