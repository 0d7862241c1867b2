"""Windows are cut from the end, lose nothing but short leftovers, and are padded on the left."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from skiprec.data.windows import cut_from_end, gather_rows

LENGTHS = st.lists(st.integers(0, 30), min_size=1, max_size=8)


@given(LENGTHS, st.integers(2, 9), st.integers(1, 2))
def test_rows_joined_are_the_history_without_its_leftover(
    lengths: list[int], window: int, min_items: int
) -> None:
    length_U = np.array(lengths)
    item_N = np.arange(1, length_U.sum() + 1, dtype=np.int32)
    start_U = np.cumsum(length_U) - length_U
    plan = cut_from_end(length_U, window, min_items)
    items_RW = gather_rows(item_N, start_U, plan, window)
    for user, n in enumerate(lengths):
        joined = [i for row in items_RW[plan.user_R == user] for i in row if i]
        leftover = n % window if n % window < min_items else 0
        assert joined == list(range(start_U[user] + leftover + 1, start_U[user] + n + 1))
    for row in items_RW:
        is_item = row > 0
        assert is_item.sum() >= min_items
        assert (np.diff(is_item.astype(int)) >= 0).all()  # all padding is on the left


def test_an_example_by_hand() -> None:
    plan = cut_from_end(np.array([7, 2, 5]), window=3, min_items=2)
    assert plan.user_R.tolist() == [0, 0, 1, 2, 2]
    assert plan.end_R.tolist() == [4, 7, 2, 2, 5]  # the first item of user 0 is a leftover
    item_N = np.array([11, 12, 13, 14, 15, 16, 17, 21, 22, 31, 32, 33, 34, 35], np.int32)
    items_RW = gather_rows(item_N, np.array([0, 7, 9]), plan, window=3)
    assert items_RW.tolist() == [
        [12, 13, 14],
        [15, 16, 17],
        [0, 21, 22],
        [0, 31, 32],
        [33, 34, 35],
    ]
