"""Reads columns of text or numbers into NumPy, with a mask of the readable values.

A value that is not of the wanted type is unreadable; its meaning is never guessed.
"""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

Bools = npt.NDArray[np.bool_]
Doubles = npt.NDArray[np.float64]
Longs = npt.NDArray[np.int64]

# A float64 holds every whole number below 2^53 exactly; 2^53 and 2^53 + 1 are the same float64.
_LARGEST_EXACT = float(2**53)


def parse_numbers(values: pa.Array) -> tuple[Doubles, Bools]:
    """`(number_N, readable_N)`: float64 values. Finite numbers are readable; the others are 0."""
    number, readable_N = _convert(values, lambda part: part.cast(pa.float64()))
    number_N = number.to_numpy(zero_copy_only=False).astype(np.float64)
    readable_N &= np.isfinite(number_N)
    return np.where(readable_N, number_N, 0.0), readable_N


def parse_integers(values: pa.Array) -> tuple[Longs, Bools]:
    """`(integer_N, readable_N)`: int64 values. Whole numbers are readable; the others are 0."""
    number, readable_N = _convert(values, lambda part: part.cast(pa.int64()))
    return number.to_numpy(zero_copy_only=False).astype(np.int64), readable_N


def parse_times(values: pa.Array, time_format: str) -> tuple[Longs, Bools]:
    """`(key_N, readable_N)`: int64 keys in the order of the times.

    `time_format` applies to columns of text; other columns have a type. Numbers beyond 2^53 are
    unreadable as "number", because a float64 would not keep their order. Dates before 1678 and
    after 2262 are unreadable, too.
    """
    if pa.types.is_integer(values.type):
        return parse_integers(values)
    if pa.types.is_timestamp(values.type) or pa.types.is_date(values.type):
        stamp, readable_N = _convert(values, lambda part: part.cast(pa.timestamp("ns")))
        return parse_integers(stamp.cast(pa.int64()))[0], readable_N
    if pa.types.is_floating(values.type) or time_format == "number":
        number_N, readable_N = parse_numbers(values)
        return order_key(number_N), readable_N & (np.abs(number_N) < _LARGEST_EXACT)
    if time_format == "integer":
        return parse_integers(values)
    if time_format == "iso8601":
        stamp, readable_N = _convert(values, lambda part: part.cast(pa.timestamp("us")))
    else:
        stamp, readable_N = _convert(values, lambda part: pc.strptime(part, time_format, "us"))
    return parse_integers(stamp.cast(pa.int64()))[0], readable_N


def order_key(number_N: Doubles) -> Longs:
    """int64 keys in the order of finite float64 values; -0.0 and 0.0 have the same key."""
    bits_N = (number_N + 0.0).view(np.int64)
    return np.where(bits_N >= 0, bits_N, np.int64(-(2**63)) - bits_N)


def parse_ids(values: pa.Array) -> tuple[pa.Array, Bools]:
    """`(strings, readable_N)`: ids as text.

    Empty and missing ids are unreadable, and in a float column so are fractions.
    """
    if pa.types.is_floating(values.type):
        values, whole_N = _convert(values, lambda part: part.cast(pa.int64()))
    elif pa.types.is_dictionary(values.type):
        values, whole_N = values.cast(values.type.value_type), np.ones(len(values), np.bool_)
    else:
        whole_N = np.ones(len(values), np.bool_)
    text = pc.fill_null(values.cast(pa.string()), "")
    empty = pc.equal(text, "").to_numpy(zero_copy_only=False)
    return text, whole_N & ~empty


def _convert(values: pa.Array, convert: Callable[[pa.Array], pa.Array]) -> tuple[pa.Array, Bools]:
    """The converted values, with 0 where that is impossible, and whether each one was converted.

    Converts all values in one call. If that fails, each half is tried, down to single values.
    """
    try:
        converted = convert(values)
    except pa.ArrowInvalid:
        if len(values) > 1:
            middle = len(values) // 2
            low, low_N = _convert(values.slice(0, middle), convert)
            high, high_N = _convert(values.slice(middle), convert)
            return pa.concat_arrays([low, high]), np.concatenate([low_N, high_N])
        converted = convert(pa.nulls(1, values.type))
    readable_N = np.array(pc.is_valid(converted).to_numpy(zero_copy_only=False))
    return pc.fill_null(converted, pa.scalar(0).cast(converted.type)), readable_N
