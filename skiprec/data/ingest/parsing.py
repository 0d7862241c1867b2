"""Columns of text or numbers to numpy, with a mask of what could be read: never a guess."""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

Bools = npt.NDArray[np.bool_]
Doubles = npt.NDArray[np.float64]
Longs = npt.NDArray[np.int64]

# Whole numbers below this are exact in a float64; at it, the next one looks the same.
_LARGEST_EXACT = float(2**53)


def parse_numbers(values: pa.Array) -> tuple[Doubles, Bools]:
    """(float64 values, readable_N): finite numbers only, 0 where unreadable."""
    number, readable_N = _convert(values, lambda part: part.cast(pa.float64()))
    number_N = number.to_numpy(zero_copy_only=False).astype(np.float64)
    readable_N &= np.isfinite(number_N)
    return np.where(readable_N, number_N, 0.0), readable_N


def parse_integers(values: pa.Array) -> tuple[Longs, Bools]:
    """(int64 values, readable_N): whole numbers only, 0 where unreadable."""
    number, readable_N = _convert(values, lambda part: part.cast(pa.int64()))
    return number.to_numpy(zero_copy_only=False).astype(np.int64), readable_N


def parse_times(values: pa.Array, time_format: str) -> tuple[Longs, Bools]:
    """(int64 keys that order as the times do, readable_N).

    `time_format` says how text is read; columns that already have a type need none. Numbers
    beyond 2^53 are unreadable as "number", since they would be ordered wrongly, and so are dates
    before 1678 and after 2262.
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
    """int64 keys in the order of the finite float64 values; -0.0 and 0.0 get the same key."""
    bits_N = (number_N + 0.0).view(np.int64)
    return np.where(bits_N >= 0, bits_N, np.int64(-(2**63)) - bits_N)


def parse_ids(values: pa.Array) -> tuple[pa.Array, Bools]:
    """(strings, readable_N): ids as text; a float column must hold whole numbers.

    Empty and missing ids are unreadable.
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
    """convert(values) with nulls filled by zero, and which values it can convert.

    One call when all can be converted; else halves are tried, down to the values that cannot.
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
