"""The splits: pure functions from lengths of histories and hashes of users to rows."""

from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import Annotated, Any, Literal, Self

import numpy as np
import numpy.typing as npt
from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from skiprec.config.section import Section
from skiprec.data.hashing import Hashes, keyed_uniform, mix
from skiprec.data.windows import RowPlan, cut_from_end

Longs = npt.NDArray[np.int64]
Seed = Annotated[int, Field(ge=0, lt=2**63)]
Fraction = Annotated[float, Field(ge=0, lt=1)]


class _Ends(Section):
    """Where the rows of validation and test end in a history."""

    evaluation_ends: Literal["last", "random", "all"] = "last"
    """Where the rows of validation and test end. `last`: at the last item of a history (of a period
    with `by_time`); with `by_user` and `given` the windows before it are rows, too. `random` and
    `all`: anywhere, as requests do."""
    max_ends: Annotated[int, Field(ge=1)] | None = None
    """Most rows of a user in validation, and in test, drawn by a keyed hash. None: one with
    `random`, no bound with `all`. It has no effect with `last`."""

    @model_validator(mode="after")
    def _bound_is_used(self) -> Self:
        if self.evaluation_ends == "last" and self.max_ends is not None:
            raise ValueError(
                "split.max_ends has no effect with split.evaluation_ends = 'last'; remove it"
            )
        return self


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


class ByUser(_Fractions, _Ends):
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


class Given(_Ends):
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


def milliseconds_of(text: str) -> int:
    """Milliseconds since 1970 of a date or time in ISO 8601; without a zone it is in UTC.

    Raises:
        ValueError: the text is no such time.
    """
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        raise ValueError(f"{text!r} is no date; expected for example 2024-01-31 or 0.8") from None
    return round((time if time.tzinfo else time.replace(tzinfo=UTC)).timestamp() * 1000)


def _as_text(value: Any) -> Any:
    return value.isoformat() if isinstance(value, date) else value  # TOML has dates


def _cut_off(value: float | str) -> float | str:
    if isinstance(value, str):
        milliseconds_of(value)
    elif not 0 < value < 1:
        raise ValueError(f"{value} is no share of the interactions; expected one between 0 and 1")
    return value


CutOff = Annotated[float | str, BeforeValidator(_as_text), AfterValidator(_cut_off)]


class ByTime(_Ends):
    """Trained on what was before a cut-off, validated on what came between two, tested after.

    A row of validation or test reaches back over the whole history, and its target lies within its
    period. No row of training holds anything at or behind a cut-off, as in production: a split by
    user trains on what other users did after the time of a test target.
    """

    kind: Literal["by_time"] = "by_time"
    """Two cut-offs in time: what was before the first is trained on, what came after the second is
    tested. The split for new data: a model in use has not seen the future of other users."""
    validation_from: CutOff = 0.8
    """Time of the first cut-off: a date such as `2024-01-31`, or the share of the interactions that
    lie before it, such as 0.8."""
    test_from: CutOff = 0.9
    """Time of the second cut-off, later than `validation_from`."""
    seed: Seed = 0
    """Seed of the draw of ends."""

    @model_validator(mode="after")
    def _cut_offs_are_ordered(self) -> Self:
        first, second = (
            milliseconds_of(cut_off) if isinstance(cut_off, str) else cut_off
            for cut_off in (self.validation_from, self.test_from)
        )
        if isinstance(self.validation_from, str) == isinstance(self.test_from, str):
            if first >= second:
                raise ValueError(
                    f"split.test_from {self.test_from} does not lie behind split.validation_from "
                    f"{self.validation_from}; expected a later cut-off"
                )
        return self


SplitConfig = Annotated[
    ByUser | ByWindow | LeaveOneOut | Given | ByTime, Field(discriminator="kind")
]


@dataclass(frozen=True)
class SplitPlan:
    """The rows of every split, and the numbers of interactions and users that are in none."""

    rows: dict[str, RowPlan]
    leftover_interactions: int
    users_without_evaluation: int


@dataclass(frozen=True)
class Lengths:
    """The lengths of some histories and of their parts, in items.

    `test_U` counts the items at the end that came from a test file (split `given`), the others
    count the items before the two cut-offs (split `by_time`); otherwise they are zero.
    """

    all_U: Longs
    test_U: Longs
    before_validation_U: Longs
    before_test_U: Longs


def plan_splits(
    config: ByUser | ByWindow | LeaveOneOut | Given | ByTime,
    hash_U: Hashes,
    length: Lengths,
    window: int,
    min_items: int,
) -> SplitPlan:
    """The rows of `train`, `validation` and `test` for some users, each ordered by (user, end).

    The rows of a user depend on that user alone.
    """
    lonely_users = 0
    match config:
        case LeaveOneOut():
            can_spare_U = length.all_U >= min_items + 2
            lonely_users = int((~can_spare_U).sum())
            train, validation, test = _leave_one_out(length.all_U, can_spare_U, window, min_items)
        case Given():
            train, validation, test = _given(config, hash_U, length, window, min_items)
        case ByUser() | ByWindow():
            train, validation, test = _by_hash(config, hash_U, length.all_U, window, min_items)
        case ByTime():
            lonely_users = int((length.before_validation_U == length.all_U).sum())
            train, validation, test = _by_time(config, hash_U, length, window, min_items)
    rows = {"train": train, "validation": validation, "test": test}
    return SplitPlan(rows, _leftover(length.all_U, rows, window), lonely_users)


Three = tuple[RowPlan, RowPlan, RowPlan]  # the rows of train, validation and test


def _by_hash(
    config: ByUser | ByWindow, hash_U: Hashes, length_U: Longs, window: int, min_items: int
) -> Three:
    rows = cut_from_end(length_U, window, min_items)
    hash_R = hash_U[rows.user_R]
    if isinstance(config, ByWindow):
        hash_R = mix(hash_R ^ rows.end_R.astype(np.uint64))
    part_R = _draw_part(config, hash_R)
    validation, test = rows.select(part_R == 1), rows.select(part_R == 2)
    if isinstance(config, ByUser) and config.evaluation_ends != "last":
        part_U = _draw_part(config, hash_U)
        validation, test = (
            _anywhere(
                config, hash_U, np.ones_like(length_U), length_U * (part_U == part), min_items
            )
            for part in (1, 2)
        )
    return rows.select(part_R == 0), validation, test


def _draw_part(config: ByUser | ByWindow, hash_N: Hashes) -> Longs:
    """0 for train, 1 for validation, 2 for test."""
    draw_N = keyed_uniform(hash_N, config.seed)
    is_held_out_N = draw_N < config.test_frac + config.validation_frac
    return np.where(draw_N < config.test_frac, 2, is_held_out_N.astype(np.int64))


def _leave_one_out(
    length_U: Longs, can_spare_U: npt.NDArray[np.bool_], window: int, min_items: int
) -> Three:
    train = cut_from_end(np.where(can_spare_U, length_U - 2, length_U), window, min_items)
    user_R = np.flatnonzero(can_spare_U)
    return train, RowPlan(user_R, length_U[user_R] - 1), RowPlan(user_R, length_U[user_R])


def _given(config: Given, hash_U: Hashes, length: Lengths, window: int, min_items: int) -> Three:
    train_length_U = length.all_U - length.test_U
    known = cut_from_end(train_length_U, window, min_items)
    is_validation_U = keyed_uniform(hash_U, config.seed) < config.validation_frac
    is_validation_R = is_validation_U[known.user_R]
    if config.evaluation_ends == "last":
        whole = cut_from_end(length.all_U, window, min_items)
        test = whole.select(whole.end_R > train_length_U[whole.user_R])
        validation = known.select(is_validation_R)
    else:
        first_U = np.ones_like(train_length_U)
        last_U = train_length_U * is_validation_U
        validation = _anywhere(config, hash_U, first_U, last_U, min_items)
        test = _anywhere(config, hash_U, train_length_U + 1, length.all_U, min_items)
    return known.select(~is_validation_R), validation, test


def _by_time(config: ByTime, hash_U: Hashes, length: Lengths, window: int, min_items: int) -> Three:
    train = cut_from_end(length.before_validation_U, window, min_items)
    validation, test = (
        _period(config, hash_U, before_U + 1, last_U, min_items)
        for before_U, last_U in (
            (length.before_validation_U, length.before_test_U),
            (length.before_test_U, length.all_U),
        )
    )
    return train, validation, test


def _period(
    config: ByTime, hash_U: Hashes, first_U: Longs, last_U: Longs, min_items: int
) -> RowPlan:
    """Rows that end within the items `first_U..last_U`, counted from 1."""
    if config.evaluation_ends != "last":
        return _anywhere(config, hash_U, first_U, last_U, min_items)
    user_R = np.flatnonzero(last_U >= np.maximum(first_U, min_items))
    return RowPlan(user_R, last_U[user_R])


def _anywhere(
    config: ByUser | Given | ByTime,
    hash_U: Hashes,
    first_U: Longs,
    last_U: Longs,
    min_items: int,
) -> RowPlan:
    """Rows that end at every item of `first_U..last_U`, or at as many of them as are allowed."""
    first_U = np.maximum(first_U, min_items)
    count_U = np.maximum(0, last_U - first_U + 1)
    user_R = np.repeat(np.arange(len(count_U)), count_U)
    start_U = np.cumsum(count_U) - count_U
    rows = RowPlan(user_R, first_U[user_R] + np.arange(len(user_R)) - start_U[user_R])
    bound = config.max_ends or (1 if config.evaluation_ends == "random" else None)
    if bound is None:
        return rows
    hash_R = mix(hash_U[user_R] ^ rows.end_R.astype(np.uint64))
    drawn_R = np.lexsort([keyed_uniform(hash_R, config.seed, salt=1), user_R])
    is_chosen_R = np.zeros(len(user_R), np.bool_)
    is_chosen_R[drawn_R[np.arange(len(user_R)) - start_U[user_R] < bound]] = True
    return rows.select(is_chosen_R)


def _leftover(length_U: Longs, rows: dict[str, RowPlan], window: int) -> int:
    """How many items of the histories are in no row."""
    start_U = np.cumsum(length_U) - length_U
    size = int(length_U.sum()) + 1
    change_N = np.zeros(size, np.int64)  # rows that begin at an item, less those that end before it
    for plan in rows.values():
        end_R = start_U[plan.user_R] + plan.end_R
        first_R = np.maximum(end_R - window, start_U[plan.user_R])
        change_N += np.bincount(first_R, minlength=size) - np.bincount(end_R, minlength=size)
    return int((np.cumsum(change_N[:-1]) == 0).sum())
