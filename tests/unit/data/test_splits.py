"""Splits hold out what they say, and a user's rows depend on that user alone."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from skiprec.data.hashing import hash_texts, mix
from skiprec.data.splits import (
    ByTime,
    ByUser,
    ByWindow,
    Given,
    LeaveOneOut,
    Lengths,
    SplitPlan,
    plan_splits,
)

NONE = np.zeros(0, np.int64)


def hashes(num_users: int) -> np.ndarray:
    return mix(np.arange(num_users, dtype=np.uint64))


def plan(config: object, lengths: list[int], window: int = 5, min_items: int = 3) -> SplitPlan:
    length_U = np.array(lengths, np.int64)
    none_U = np.zeros_like(length_U)
    length = Lengths(length_U, none_U, none_U, none_U)
    return plan_splits(config, hashes(len(lengths)), length, window, min_items)  # type: ignore[arg-type]


def users(split: SplitPlan, name: str) -> set[int]:
    return set(split.rows[name].user_R.tolist())


@given(st.lists(st.integers(3, 20), min_size=1, max_size=40), st.integers(0, 5))
def test_by_user_keeps_each_user_in_one_split(lengths: list[int], seed: int) -> None:
    split = plan(ByUser(validation_frac=0.3, test_frac=0.3, seed=seed), lengths)
    sets = [users(split, name) for name in ("train", "validation", "test")]
    assert sum(len(s) for s in sets) == len(set.union(*sets))


def test_by_window_lets_a_user_be_in_several_splits() -> None:
    """Control of the test above: the property is not trivially true."""
    split = plan(ByWindow(validation_frac=0.3, test_frac=0.3), [100] * 20)
    assert users(split, "train") & users(split, "test")


@given(st.lists(st.integers(3, 25), min_size=1, max_size=20))
def test_by_window_shares_the_rows_out(lengths: list[int]) -> None:
    split = plan(ByWindow(validation_frac=0.3, test_frac=0.3), lengths)
    rows = [
        (int(u), int(e))
        for name in split.rows
        for u, e in zip(split.rows[name].user_R, split.rows[name].end_R, strict=True)
    ]
    assert len(rows) == len(set(rows))
    covered = sum(min(5, end) for _, end in rows)
    assert covered + split.leftover_interactions == sum(lengths)


@pytest.mark.parametrize("kind", [ByUser, ByWindow])
def test_fractions_are_kept_on_average(kind: type[ByUser]) -> None:
    split = plan(kind(validation_frac=0.1, test_frac=0.2), [5] * 20_000)
    rows = {name: len(rows.user_R) for name, rows in split.rows.items()}
    assert rows["validation"] == pytest.approx(2000, abs=200)
    assert rows["test"] == pytest.approx(4000, abs=250)


def test_another_seed_draws_other_users() -> None:
    first, second = (users(plan(ByUser(seed=s), [5] * 1000), "test") for s in (0, 1))
    assert len(first & second) < 0.3 * len(first)


def test_leave_one_out_holds_out_the_last_two_items() -> None:
    split = plan(LeaveOneOut(), [12, 4, 5])
    assert split.rows["test"].user_R.tolist() == [0, 2]
    assert split.rows["test"].end_R.tolist() == [12, 5]
    assert split.rows["validation"].end_R.tolist() == [11, 4]
    train = split.rows["train"]
    assert train.user_R.tolist() == [0, 0, 1, 2]
    assert train.end_R.tolist() == [5, 10, 4, 3]  # the user of 4 items cannot spare any
    assert split.users_without_evaluation == 1


def test_given_rows_of_test_end_at_test_items_and_train_rows_before_them() -> None:
    none_U = np.zeros(3, np.int64)
    length = Lengths(np.array([10, 6, 4]), np.array([2, 0, 4]), none_U, none_U)
    split = plan_splits(Given(validation_frac=0.0), hashes(3), length, window=5, min_items=3)
    assert split.rows["test"].user_R.tolist() == [0, 2]
    assert split.rows["test"].end_R.tolist() == [10, 4]
    assert split.rows["train"].user_R.tolist() == [0, 0, 1]
    assert split.rows["train"].end_R.tolist() == [3, 8, 6]
    assert split.leftover_interactions == 1  # the oldest item of user 1


@pytest.mark.parametrize(
    "config",
    [
        ByUser(validation_frac=0.3),
        ByUser(validation_frac=0.3, evaluation_ends="all", max_ends=3),
        ByWindow(validation_frac=0.3),
        LeaveOneOut(),
        Given(),
        Given(evaluation_ends="random"),
        ByTime(validation_from=0.6, test_from=0.8),
        ByTime(validation_from=0.6, test_from=0.8, evaluation_ends="random", max_ends=2),
    ],
    ids=lambda config: f"{config.kind}, {getattr(config, 'evaluation_ends', 'last')}",
)
def test_a_users_rows_do_not_depend_on_the_other_users(config: object) -> None:
    rng = np.random.default_rng(0)
    length_U, hash_U = rng.integers(3, 30, 50), hashes(50)
    none_U = np.zeros_like(length_U)
    parts = [
        length_U // 3 if isinstance(config, Given) else none_U,
        rng.integers(0, length_U // 2) if isinstance(config, ByTime) else none_U,
        length_U // 2 if isinstance(config, ByTime) else none_U,
    ]

    def rows(chosen: np.ndarray) -> set[tuple[str, int, int]]:
        split = plan_splits(
            config,  # type: ignore[arg-type]
            hash_U[chosen],
            Lengths(length_U[chosen], *(part_U[chosen] for part_U in parts)),
            window=6,
            min_items=3,
        )
        return {
            (name, int(chosen[u]), int(e))
            for name, part in split.rows.items()
            for u, e in zip(part.user_R, part.end_R, strict=True)
        }

    everyone = rows(np.arange(50))
    assert everyone == rows(np.arange(0, 50, 2)) | rows(np.arange(1, 50, 2))


def test_fractions_that_leave_nothing_are_refused() -> None:
    with pytest.raises(ValidationError, match="expected a sum below 1"):
        ByUser(validation_frac=0.5, test_frac=0.5)


def test_hashes_of_texts_are_what_they_were() -> None:
    """Splits of published datasets hang on these values."""
    texts = pa.array(["", "a", "42", "größe", "a" * 50])
    assert [f"{value:016x}" for value in hash_texts(texts)] == [
        "c3817c016ba4ff30",
        "5f29c2aadd9b8527",
        "2e3f71ee82c2e0f4",
        "a9b541425f6e8284",
        "0067578facdc9b31",
    ]
    assert hash_texts(texts.slice(1, 2)).tolist() == hash_texts(texts)[1:3].tolist()
    assert len(hash_texts(pa.array([], pa.string()))) == 0
