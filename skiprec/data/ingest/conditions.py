"""Conditions on a column, such as `Quantity > 0`, applied to whole columns at once."""

import re
from dataclasses import dataclass, replace
from decimal import Decimal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from skiprec.data.ingest.parsing import parse_numbers
from skiprec.data.ingest.times import parse_iso8601

Bools = npt.NDArray[np.bool_]

_COMPARE = {
    "<": pc.less,
    "<=": pc.less_equal,
    ">": pc.greater,
    ">=": pc.greater_equal,
    "==": pc.equal,
    "!=": pc.not_equal,
}
_PATTERN = re.compile(r"^\s*(?P<column>.+?)\s*(?P<operator><=|>=|==|!=|<|>)\s*(?P<value>.*?)\s*$")
_EMPTY_PATTERN = re.compile(r"^\s*(?P<column>.+?)\s+is\s+(?P<negation>not\s+)?empty\s*$")


@dataclass(frozen=True)
class Condition:
    """A parsed condition; `operator` is a comparison, "is empty" or "is not empty"."""

    column: str
    operator: str
    value: str

    @property
    def has_order(self) -> bool:
        """Whether the operator asks which of two values is larger."""
        return self.operator in ("<", "<=", ">", ">=")


def parse_condition(text: str) -> Condition:
    """The condition in a text such as `COLUMN < 3`, `COLUMN is empty` or `COLUMN is not empty`.

    The comparisons are < <= > >= == !=.

    Raises:
        ValueError: the text is not a condition.
    """
    if match := _EMPTY_PATTERN.match(text):
        operator = "is not empty" if match["negation"] else "is empty"
        return Condition(match["column"], operator, "")
    match = _PATTERN.match(text)
    if not match:
        raise ValueError(
            f"condition {text!r}; expected for example 'Quantity > 0' (< <= > >= == !=), "
            "'CustomerID is empty' or 'CustomerID is not empty'"
        )
    condition = Condition(match["column"], match["operator"], match["value"])
    meanings = (_number_of(condition), _time_of(condition), _time_of_day(condition))
    if condition.has_order and meanings == (None, None, None):
        raise ValueError(
            f"condition {text!r}: expected a number or a time such as 2024-01-31 after "
            f"{condition.operator}, got {condition.value!r}"
        )
    return condition


def apply_condition(condition: Condition, values: pa.Array) -> tuple[Bools, Bools]:
    """`(holds_N, unreadable_N)` of each value of a column, which `parsing.plain` returned.

    A column of numbers, times or booleans is compared with such a value. In a column of text, ==
    and != compare text, and the others compare numbers or, if the value is one, times. An empty
    value fails every comparison except `!=`.

    Raises:
        ValueError: values of this type cannot be compared with the condition's value.
    """
    is_text = pa.types.is_string(values.type)
    empty_N = to_bools(pc.is_null(values))
    if is_text:
        empty_N |= to_bools(pc.fill_null(pc.equal(values, ""), True))
    if condition.operator in ("is empty", "is not empty"):
        holds_N = empty_N if condition.operator == "is empty" else ~empty_N
        return holds_N, np.zeros_like(holds_N)
    compare = _COMPARE[condition.operator]
    if is_text and not condition.has_order:
        holds = compare(pc.fill_null(values, ""), condition.value)
        return to_bools(holds), np.zeros_like(empty_N)
    comparable, value, readable_N = _comparable(condition, values)
    unreadable_N = ~readable_N & ~empty_N
    holds_N = to_bools(pc.fill_null(compare(comparable, value), False)) & readable_N & ~empty_N
    return holds_N | (empty_N & (condition.operator == "!=")), unreadable_N


def _comparable(condition: Condition, values: pa.Array) -> tuple[pa.Array, pa.Scalar, Bools]:
    """The values and the condition's value in one type, and which of the values are readable."""
    kind, all_N = values.type, np.ones(len(values), np.bool_)
    number, time = _number_of(condition), _time_of(condition)
    if pa.types.is_boolean(kind) and not condition.has_order:
        truth = {"true": True, "1": True, "false": False, "0": False}.get(condition.value.lower())
        if truth is not None:
            return values, pa.scalar(truth), all_N
        raise _unlike(condition, kind, "true or false")
    if pa.types.is_timestamp(kind) or pa.types.is_date(kind):
        if time is None:
            raise _unlike(condition, kind, "a time such as 2024-01-31 or 2024-01-31T18:00Z")
        if pa.types.is_timestamp(kind) and kind.unit == "ns":
            nanoseconds = min(max(time * 1_000, -(2**63)), 2**63 - 1)
            return values.cast(pa.int64()), pa.scalar(nanoseconds), all_N
        return values.cast(pa.timestamp("us")).cast(pa.int64()), pa.scalar(time), all_N
    if pa.types.is_time(kind):
        clock = _time_of_day(condition)
        if clock is None:
            raise _unlike(condition, kind, "a time of day such as 18:30")
        return values.cast(pa.time64("us"), safe=False).cast(pa.int64()), pa.scalar(clock), all_N
    if pa.types.is_integer(kind) and re.fullmatch(r"[+-]?\d{1,37}", condition.value):
        # Whole numbers of any size are compared exactly.
        return values.cast(pa.decimal128(38)), pa.scalar(Decimal(condition.value)), all_N
    if pa.types.is_integer(kind):
        values = values.cast(pa.float64(), safe=False)
    if pa.types.is_duration(kind):
        whole = values.cast(pa.duration("us"), safe=False).cast(pa.int64())
        values = pc.divide(whole.cast(pa.float64(), safe=False), 1e6)
    elif not (pa.types.is_string(kind) or _is_number(kind)):
        raise ValueError(
            f"column {condition.column!r} holds {kind}, which has no order; "
            f"'{condition.column} {condition.operator} {condition.value}' cannot be decided"
        )
    if number is None and pa.types.is_string(kind):
        key_N, readable_N, _ = parse_iso8601(values)
        return pa.array(key_N), pa.scalar(time), readable_N
    if number is None:
        is_span = pa.types.is_duration(kind)
        raise _unlike(condition, kind, "a number of seconds" if is_span else "a number")
    number_N, readable_N = parse_numbers(values)
    return pa.array(number_N), pa.scalar(number), readable_N


def _is_number(kind: pa.DataType) -> bool:
    return bool(
        pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind)
    )


def _unlike(condition: Condition, kind: pa.DataType, expected: str) -> ValueError:
    return ValueError(
        f"condition '{condition.column} {condition.operator} {condition.value}': column "
        f"{condition.column!r} holds {kind}; expected {expected}, got {condition.value!r}"
    )


def _number_of(condition: Condition) -> float | None:
    try:
        return float(condition.value)
    except ValueError:
        return None


def _time_of(condition: Condition) -> int | None:
    """The condition's value as microseconds since 1970; None if it is no time."""
    key_N, readable_N, _ = parse_iso8601(pa.array([condition.value]))
    return int(key_N[0]) if readable_N[0] else None


def _time_of_day(condition: Condition) -> int | None:
    return _time_of(replace(condition, value=f"1970-01-01T{condition.value}"))


def to_bools(values: pa.Array | pa.ChunkedArray) -> Bools:
    """A writable NumPy copy of a boolean column without nulls."""
    return np.array(values.to_numpy(zero_copy_only=False), dtype=np.bool_)
