"""Conditions on rows: the values of every type of Arrow, and what cannot be decided."""

from datetime import date, time, timedelta
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pytest

from skiprec.data.ingest.conditions import apply_condition, parse_condition
from skiprec.data.ingest.parsing import plain


@pytest.mark.parametrize(
    ("text", "values", "holds"),
    [
        ("n > 2", ["1", "2.5", "3", ""], [False, True, True, False]),
        ("n <= 2.5", ["1", "2.5", "3", ""], [True, True, False, False]),
        ("n == 2.50", ["2.5", "2.50"], [False, True]),
        ("n != a", ["a", "b", ""], [False, True, True]),
        ("n == 2", [2.0, 3.0, None], [True, False, False]),
        ("n != 2", [2, 3, None], [False, True, True]),
        ("n is empty", ["", "a"], [True, False]),
        ("n is not empty", [None, 1.0], [False, True]),
        ("two words >= 1", ["1", "0"], [True, False]),
    ],
)
def test_conditions(text: str, values: list[Any], holds: list[bool]) -> None:
    found, unreadable = apply_condition(parse_condition(text), pa.array(values))
    assert found.tolist() == holds
    assert not unreadable.any()


DAYS = [date(2024, 1, 1), date(2024, 1, 2), None]


@pytest.mark.parametrize(
    ("text", "values", "holds"),
    [
        ("c == buy", pa.array(["buy", "view", None]).dictionary_encode(), [True, False, False]),
        ("c != buy", pa.array(["buy", "view", None]).dictionary_encode(), [False, True, True]),
        ("c == buy", pa.array([b"buy", b"view", None]), [True, False, False]),
        ("c == buy", pa.array(["buy", "view"], pa.large_string()), [True, False]),
        ("c == buy", pa.array(["buy", "view"], pa.string_view()), [True, False]),
        ("c == true", pa.array([True, False, None]), [True, False, False]),
        ("c != True", pa.array([True, False, None]), [False, True, True]),
        ("c == 2024-01-01", pa.array(DAYS), [True, False, False]),
        ("c > 2024-01-01", pa.array(DAYS), [False, True, False]),
        (
            "c >= 2024-01-01T23:00-02:00",
            pa.array(DAYS).cast(pa.timestamp("ns")),
            [False, False, False],
        ),
        (
            "c < 2024-01-02T00:00:01Z",
            pa.array(DAYS).cast(pa.timestamp("s", "UTC")),
            [True, True, False],
        ),
        ("c > 2024-01-01", pa.array(["2024-01-01T01:00Z", "2023-12-31", ""]), [True, False, False]),
        ("c > 01:30", pa.array([time(1), time(2)]), [False, True]),
        ("c >= 90", pa.array([timedelta(seconds=89.9), timedelta(minutes=1.5)]), [False, True]),
        ("c > 1.5", pa.array([Decimal("1.50"), Decimal("1.51")]), [False, True]),
        ("c == 9007199254740993", pa.array([2**53, 2**53 + 1]), [False, True]),
        ("c >= 1700000000000000001", pa.array([17 * 10**17, 17 * 10**17 + 1]), [False, True]),
        ("c > 18446744073709551614", pa.array([2**64 - 1, 0], pa.uint64()), [True, False]),
        ("c > 1.5", pa.array([2**62, 1]), [True, False]),
        (
            "c >= 1970-01-01",
            pa.array([-1, 1], pa.int64()).cast(pa.timestamp("ns")),
            [False, True],
        ),
        ("c is empty", pa.array([None, None]), [True, True]),
    ],
    ids=str,
)
def test_conditions_on_every_type(text: str, values: pa.Array, holds: list[bool]) -> None:
    readable, is_utf8_N = plain(values)
    found, unreadable = apply_condition(parse_condition(text), readable)
    assert found.tolist() == holds
    assert is_utf8_N.all()
    assert not unreadable.any()


@pytest.mark.parametrize(
    ("text", "values", "message"),
    [
        ("c > 1", pa.array([True]), "column 'c' holds bool, which has no order"),
        ("c == maybe", pa.array([True]), "expected true or false, got 'maybe'"),
        ("c == monday", pa.array(DAYS), r"column 'c' holds date32.day.; expected a time such as"),
        ("c == 1", pa.array([{"a": 1}]), "holds struct<a: int64>, which has no order"),
        ("c == x", pa.array([1]), "holds int64; expected a number, got 'x'"),
    ],
    ids=str,
)
def test_conditions_that_cannot_be_decided(text: str, values: pa.Array, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        apply_condition(parse_condition(text), values)


def test_conditions_flag_what_is_no_number() -> None:
    _, unreadable = apply_condition(parse_condition("n > 2"), pa.array(["1", "x", ""]))
    assert unreadable.tolist() == [False, True, False]
    for text in ("n", "n > x", "> 3 4", "n ~ 2"):
        with pytest.raises(ValueError, match="condition"):
            parse_condition(text)
