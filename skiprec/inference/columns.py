"""Histories and lists of items as Arrow columns, without a Python object for each item."""

from collections.abc import Iterable
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

Longs = NDArray[np.int64]


def column_of_histories(histories: Any) -> pa.Array:
    """Histories as a column of lists of text; a null is an empty history.

    Args:
        histories: an Arrow column of lists, or lists, of text or whole numbers.

    Raises:
        ValueError: a history is no list, or an item is neither text nor a whole number.
    """
    if not isinstance(histories, pa.Array | pa.ChunkedArray):
        rows = list(histories)
        try:
            histories = pa.array(rows)
        except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError):  # text and numbers side by side
            histories = pa.array([_as_text(row, place) for place, row in enumerate(rows)])
    if isinstance(histories, pa.ChunkedArray):
        histories = histories.combine_chunks()
    if pa.types.is_null(histories.type):
        return pa.array([[]] * len(histories), pa.list_(pa.string()))
    is_list = pa.types.is_list(histories.type) or pa.types.is_large_list(histories.type)
    kind = histories.type.value_type if is_list else histories.type
    is_id = (
        pa.types.is_string(kind)
        or pa.types.is_large_string(kind)
        or pa.types.is_integer(kind)
        or pa.types.is_null(kind)
    )
    if not (is_list and is_id):
        raise ValueError(
            f"histories are a column of {histories.type}; expected lists of item ids, as text or "
            "whole numbers"
        )
    histories = histories.cast(pa.list_(pa.string()))
    items = histories.flatten()
    if items.null_count:
        row = pc.list_parent_indices(histories)[pc.index(pc.is_null(items), True).as_py()]
        raise ValueError(f"history {row} holds None; expected ids as text or as whole numbers")
    return pc.fill_null(histories, pa.scalar([], pa.list_(pa.string())))


def _as_text(row: Any, place: int) -> list[str]:
    if row is None:
        return []
    if isinstance(row, str) or not isinstance(row, Iterable):
        raise ValueError(f"history {place} is {row!r}; expected a list of item ids")
    found = []
    for item in row:
        if isinstance(item, bool) or not isinstance(item, str | int | np.integer):
            raise ValueError(
                f"history {place} holds {item!r}; expected ids as text or as whole numbers"
            )
        found.append(str(item))
    return found


def known_and_unknown(
    histories: pa.Array, ids: pa.Array
) -> tuple[NDArray[np.int32], Longs, pa.Array]:
    """`(item_N, end_B, unknown)`: numbers of the known items, from 1; where each history ends; and
    the unknown items of each, as a column of lists.

    Args:
        histories: from `column_of_histories`.
        ids: the catalogue; the item of row v has the number v + 1.
    """
    values = histories.flatten()
    index = pc.index_in(values, value_set=ids)
    is_known_N = pc.is_valid(index).to_numpy(zero_copy_only=False)
    row_N = pc.list_parent_indices(histories).to_numpy()
    num_rows = len(histories)
    end_B = np.cumsum(np.bincount(row_N[is_known_N], minlength=num_rows), dtype=np.int64)
    item_N = pc.drop_null(index).to_numpy(zero_copy_only=False).astype(np.int32) + np.int32(1)
    unknown_B = np.bincount(row_N[~is_known_N], minlength=num_rows)
    unknown = lists_of(values.filter(pa.array(~is_known_N)), unknown_B)
    return item_N, end_B, unknown


def lists_of(values: pa.Array, length_B: NDArray[Any]) -> pa.Array:
    """A column of lists of these lengths, one after the other out of `values`."""
    offsets = np.concatenate([[0], np.cumsum(length_B)]).astype(np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets), values)
