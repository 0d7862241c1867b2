"""Conditions on a column, such as `Quantity > 0`, applied to whole columns at once."""

import re
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from skiprec.data.ingest.parsing import parse_numbers

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
    if match["operator"] not in ("==", "!="):
        try:
            float(match["value"])
        except ValueError as error:
            raise ValueError(
                f"condition {text!r}: expected a number after {match['operator']}, "
                f"got {match['value']!r}"
            ) from error
    return Condition(match["column"], match["operator"], match["value"])


def apply_condition(condition: Condition, values: pa.Array) -> tuple[Bools, Bools]:
    """`(holds_N, unreadable_N)` of each value of the column.

    < <= > >= compare numbers. == and != compare numbers in a column of numbers, otherwise text. An
    empty value fails every comparison except `!=`.
    """
    is_text = pa.types.is_string(values.type) or pa.types.is_large_string(values.type)
    empty_N = to_bools(pc.is_null(values))
    if is_text:
        empty_N |= to_bools(pc.fill_null(pc.equal(values, ""), True))
    if condition.operator in ("is empty", "is not empty"):
        holds_N = empty_N if condition.operator == "is empty" else ~empty_N
        return holds_N, np.zeros_like(holds_N)
    compare = _COMPARE[condition.operator]
    if is_text and condition.operator in ("==", "!="):
        holds = compare(pc.fill_null(values, ""), condition.value)
        return to_bools(holds), np.zeros_like(empty_N)
    number_N, readable_N = parse_numbers(values)
    unreadable_N = ~readable_N & ~empty_N
    holds_N = to_bools(compare(pa.array(number_N), float(condition.value))) & readable_N
    return holds_N | (empty_N & (condition.operator == "!=")), unreadable_N


def to_bools(values: pa.Array | pa.ChunkedArray) -> Bools:
    """A writable NumPy copy of a boolean column without nulls."""
    return np.array(values.to_numpy(zero_copy_only=False), dtype=np.bool_)
