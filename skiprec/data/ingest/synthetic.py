"""Generated users whose next item is easy or hard to predict, so that the best policy is known.

Regular items form a grid of categories and members. All users share this grid. Each follows one of
two rules for the next item:

- easy: next = successor[last], where `successor` is one fixed random permutation of all regular
  items. The last item determines the next one (if a marker hides the last item, the item before it
  does), so the receptive field of one block is large enough.
- hard: next = (category of the item `category_lag` back, member of the item `member_lag` back),
  where the item 1 back is the last one. The first max(lags) items are drawn at random. Items nearer
  than both lags carry no information, so a stack that does not reach as far back can only guess.

With probability `marker_frac`, a position shows a marker instead of its regular item: an item
outside the grid, drawn from the markers of the user's kind. The rule continues with the hidden
item. Markers, and whether neighbours are successors, reveal the kind of a user. The set of regular
items does not.

A user's original id is "<kind>-<number>"; users.arrow has the kind in a column.
"""

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from skiprec.data.ingest.chunks import Chunk
from skiprec.data.ingest.recipe import SyntheticSource

Ints = npt.NDArray[np.int32]

_USERS_A_CHUNK = 8_192


def generate_chunks(source: SyntheticSource) -> Iterator[Chunk]:
    """All histories, oldest item first; the first users are easy and the last ones hard."""
    num_regular = source.num_categories * source.items_per_category
    successor = np.random.default_rng([source.seed, 0]).permutation(num_regular).astype(np.int32)
    num_hard = round(source.hard_frac * source.num_users)
    for start in range(0, source.num_users, _USERS_A_CHUNK):
        number_U = np.arange(start, min(start + _USERS_A_CHUNK, source.num_users))
        is_hard_U = number_U >= source.num_users - num_hard
        rng = np.random.default_rng([source.seed, 1, start])
        item_UT = _walk(source, successor, is_hard_U, rng)
        item_UT = _hide_behind_markers(source, item_UT, is_hard_U, rng)
        length_U = rng.integers(source.min_length, source.max_length + 1, len(number_U))
        shown_UT = np.arange(source.max_length) < length_U[:, None]
        kinds = pa.array(np.where(is_hard_U, "hard", "easy"))
        users_U = pc.binary_join_element_wise(kinds, pa.array(number_U).cast(pa.string()), "-")
        yield Chunk(
            users_N=users_U.take(pa.array(np.repeat(np.arange(len(number_U)), length_U))),
            items_N=_item_names(source).take(pa.array(item_UT[shown_UT])),
            time_N=None,
            order_N=None,
        )


def kind_of_user(original_ids: pa.Array) -> pa.Array:
    """The kind of each user: "easy" or "hard"."""
    return pc.list_element(pc.split_pattern(original_ids, "-"), 0)


def _walk(
    source: SyntheticSource,
    successor: Ints,
    is_hard_U: npt.NDArray[np.bool_],
    rng: np.random.Generator,
) -> Ints:
    """The regular items of `max_length` steps of every user, before markers hide some."""
    per_category = source.items_per_category
    item_UT = rng.integers(len(successor), size=(len(is_hard_U), source.max_length), dtype=np.int32)
    for step in range(1, source.max_length):
        last_U = successor[item_UT[:, step - 1]]
        if step < max(source.category_lag, source.member_lag):
            item_UT[:, step] = np.where(is_hard_U, item_UT[:, step], last_U)
            continue
        category_U = item_UT[:, step - source.category_lag] // per_category
        member_U = item_UT[:, step - source.member_lag] % per_category
        item_UT[:, step] = np.where(is_hard_U, category_U * per_category + member_U, last_U)
    return item_UT


def _hide_behind_markers(
    source: SyntheticSource,
    item_UT: Ints,
    is_hard_U: npt.NDArray[np.bool_],
    rng: np.random.Generator,
) -> Ints:
    first_marker_U = source.num_categories * source.items_per_category + np.where(
        is_hard_U, source.num_markers, 0
    )
    marker_UT = first_marker_U[:, None] + rng.integers(source.num_markers, size=item_UT.shape)
    return np.where(rng.random(item_UT.shape) < source.marker_frac, marker_UT, item_UT)


def _item_names(source: SyntheticSource) -> pa.Array:
    regular = [
        f"{category}.{member}"
        for category in range(source.num_categories)
        for member in range(source.items_per_category)
    ]
    markers = [f"{kind}-marker-{n}" for kind in ("easy", "hard") for n in range(source.num_markers)]
    return pa.array(regular + markers)
