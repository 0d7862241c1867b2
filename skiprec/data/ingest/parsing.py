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

# The type holds every whole number below this one.
_EXACT_BELOW = {pa.float16(): 2.0**11, pa.float32(): 2.0**24, pa.float64(): 2.0**53}


def parse_numbers(values: pa.Array) -> tuple[Doubles, Bools]:
    """`(number_N, readable_N)`: float64 values. Finite numbers are readable; the others are 0."""
    number, readable_N = convert_each(values, lambda part: part.cast(pa.float64()))
    number_N = pc.fill_null(number, 0.0).to_numpy(zero_copy_only=False).astype(np.float64)
    readable_N &= np.isfinite(number_N)
    return np.where(readable_N, number_N, 0.0), readable_N


def parse_integers(values: pa.Array) -> tuple[Longs, Bools]:
    """`(integer_N, readable_N)`: int64 values. Whole numbers are readable; the others are 0."""
    number, readable_N = convert_each(values, lambda part: part.cast(pa.int64()))
    return pc.fill_null(number, 0).to_numpy(zero_copy_only=False).astype(np.int64), readable_N


def parse_ids(values: pa.Array) -> tuple[pa.Array, Bools]:
    """`(strings, readable_N)`: ids as text.

    Empty, blank and missing ids are unreadable, and in a float column so are fractions and numbers
    of which the type does not hold each one: two ids may have become one.
    """
    whole_N = np.ones(len(values), np.bool_)
    if pa.types.is_floating(values.type):
        number_N = values.cast(pa.float64()).to_numpy(zero_copy_only=False)
        whole_N = np.abs(number_N) < _EXACT_BELOW[values.type]
        values, is_whole_N = convert_each(values, lambda part: part.cast(pa.int64()))
        whole_N &= is_whole_N
    text = pc.fill_null(values.cast(pa.string()), "")
    empty = pc.or_(pc.equal(text, ""), pc.utf8_is_space(text)).to_numpy(zero_copy_only=False)
    return text, whole_N & ~empty


def plain(values: pa.Array) -> tuple[pa.Array, Bools]:
    """`(values, readable_N)`: categories as their values, and bytes and long texts as text.

    Bytes that are not UTF-8 are unreadable.
    """
    kind = values.type
    if isinstance(values, pa.ExtensionArray):
        return plain(values.storage)
    if pa.types.is_dictionary(kind):
        return plain(values.dictionary_decode())
    if pa.types.is_run_end_encoded(kind):
        return plain(pc.run_end_decode(values))
    if is_bytes(kind):
        values = values.cast(pa.binary())
        text, readable_N = convert_each(values, lambda part: part.cast(pa.string()))
        return text, readable_N | np.array(pc.is_null(values))
    if pa.types.is_large_string(kind) or pa.types.is_string_view(kind) or pa.types.is_null(kind):
        values = values.cast(pa.string())
    return values, np.ones(len(values), np.bool_)


def plain_type(kind: pa.DataType) -> pa.DataType:
    """The type of what `plain` returns for a column of this type."""
    return plain(pa.nulls(0, kind))[0].type


def is_bytes(kind: pa.DataType) -> bool:
    """Whether a type holds bytes."""
    return bool(
        pa.types.is_binary(kind)
        or pa.types.is_large_binary(kind)
        or pa.types.is_binary_view(kind)
        or pa.types.is_fixed_size_binary(kind)
    )


def is_list(kind: pa.DataType) -> bool:
    """Whether a type holds a list in each value."""
    return bool(
        pa.types.is_list(kind)
        or pa.types.is_large_list(kind)
        or pa.types.is_fixed_size_list(kind)
        or pa.types.is_list_view(kind)
        or pa.types.is_large_list_view(kind)
    )


def convert_each(
    values: pa.Array, conversion: Callable[[pa.Array], pa.Array]
) -> tuple[pa.Array, Bools]:
    """The converted values, null where that is impossible, and whether each one was converted.

    Converts all values in one call. If that fails, each half is tried, down to single values.
    """
    try:
        converted = conversion(values)
    except pa.ArrowInvalid:
        if len(values) > 1:
            middle = len(values) // 2
            low, low_N = convert_each(values.slice(0, middle), conversion)
            high, high_N = convert_each(values.slice(middle), conversion)
            return pa.concat_arrays([low, high]), np.concatenate([low_N, high_N])
        converted = conversion(pa.nulls(1, values.type))
    readable_N = np.array(pc.is_valid(converted).to_numpy(zero_copy_only=False))
    return converted, readable_N
