"""The data order: each epoch is a permutation, and each rank reads slices of it."""

import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skiprec.data.order import DataOrder, rank_slices

# With small blocks, small splits have several windows of several blocks and a short last window.
orders = st.builds(
    DataOrder,
    seed=st.integers(-5, 2**40),
    num_rows=st.integers(1, 300),
    block_rows=st.integers(1, 9),
    window_blocks=st.integers(1, 5),
)


@given(orders, st.integers(0, 3))
def test_an_epoch_visits_each_row_once(order: DataOrder, epoch: int) -> None:
    row_R, _ = order.rows(epoch * order.num_rows, (epoch + 1) * order.num_rows)
    assert sorted(row_R.tolist()) == list(range(order.num_rows))


@given(orders, st.data())
def test_any_range_is_a_slice_of_the_whole(order: DataOrder, data: st.DataObject) -> None:
    """The rows do not depend on the cursor where a read starts, also across epochs."""
    end = 3 * order.num_rows
    start = data.draw(st.integers(0, end) | st.sampled_from([0, end - 1, order.num_rows]))
    stop = data.draw(st.integers(start, end))
    whole_rows, whole_keys = order.rows(0, end)
    row_R, key_R = order.rows(start, stop)
    assert row_R.dtype == key_R.dtype == np.int64
    assert np.array_equal(row_R, whole_rows[start:stop])
    assert np.array_equal(key_R, whole_keys[start:stop])


# Numbers of ranks of any size. Large numbers are rare, because they take long to simulate.
world_sizes = st.integers(1, 64) | st.sampled_from([255, 1000, 4095, 4096])


@given(orders, world_sizes, st.integers(1, 70), st.data())
def test_rank_slices_make_the_sequence_of_one_rank(
    order: DataOrder, world_size: int, global_batch_rows: int, data: st.DataObject
) -> None:
    micro = data.draw(st.none() | st.integers(1, 20))
    first = data.draw(st.integers(0, 2 * order.num_rows))
    parts = [
        order.rows(first + start, first + stop)[0]
        for rank in range(world_size)
        for start, stop in rank_slices(global_batch_rows, world_size, rank, micro)
    ]
    expected, _ = order.rows(first, first + global_batch_rows)
    assert np.array_equal(np.concatenate(parts), expected)


@settings(max_examples=50)
@given(
    orders,
    st.lists(st.tuples(world_sizes, st.integers(0, 3)), min_size=1, max_size=4),
    st.integers(1, 5000),
    st.data(),
)
def test_a_run_that_is_resumed_on_other_machines_sees_one_sequence(
    order: DataOrder,
    parts: list[tuple[int, int]],
    global_batch_rows: int,
    data: st.DataObject,
) -> None:
    """Each part of the run has its own number of ranks, up to 4,096, and its own pass size."""
    step, rows, keys = 0, [], []
    for world_size, num_steps in parts:
        micro = data.draw(st.none() | st.integers(1, 700))
        for _ in range(num_steps):
            first = step * global_batch_rows
            for rank in range(world_size):
                for start, stop in rank_slices(global_batch_rows, world_size, rank, micro):
                    if stop > start:
                        row_R, key_R = order.rows(first + start, first + stop)
                        rows.append(row_R)
                        keys.append(key_R)
            step += 1
    expected = order.rows(0, step * global_batch_rows)
    empty = np.empty(0, np.int64)
    assert np.array_equal(np.concatenate([empty, *rows]), expected[0])
    assert np.array_equal(np.concatenate([empty, *keys]), expected[1])


@given(st.integers(1, 9000), world_sizes, st.none() | st.integers(1, 100))
def test_rank_slices_are_fair(rows: int, world_size: int, micro: int | None) -> None:
    slices = [rank_slices(rows, world_size, rank, micro) for rank in range(world_size)]
    assert len({len(passes) for passes in slices}) == 1, (
        "every rank makes the same number of passes"
    )
    edges = [edge for passes in slices for edge in passes]
    assert [start for start, _ in edges] == [0] + [stop for _, stop in edges[:-1]]
    assert edges[-1][1] == rows
    sizes = [passes[-1][1] - passes[0][0] for passes in slices]
    assert max(sizes) - min(sizes) <= 1
    assert max(stop - start for start, stop in edges) <= (micro or rows)


def test_epochs_and_seeds_differ() -> None:
    order = DataOrder(seed=0, num_rows=1000)
    first, second = order.rows(0, 1000)[0], order.rows(1000, 2000)[0]
    assert not np.array_equal(first, second)
    assert abs(np.corrcoef(first, second)[0, 1]) < 0.12
    assert not np.array_equal(first, DataOrder(seed=1, num_rows=1000).rows(0, 1000)[0])


def neighbours(row_R: np.ndarray) -> float:
    """The share of rows that are followed by their neighbour in the file."""
    return float((np.abs(np.diff(row_R)) == 1).mean())


@pytest.mark.parametrize("num_rows", [1000, 50_000])
def test_rows_are_really_shuffled(num_rows: int) -> None:
    row_R, _ = DataOrder(seed=3, num_rows=num_rows).rows(0, num_rows)
    assert neighbours(row_R) < 0.01
    assert neighbours(np.arange(num_rows)) == 1.0, (
        "the control: the measure detects an order that is not random"
    )
    displaced = np.abs(row_R - np.arange(num_rows)).mean() / num_rows
    assert 0.28 < displaced < 0.39  # a random order moves a row by a third of the length on average


def test_the_blocks_are_shuffled_too_not_only_the_rows_of_a_window() -> None:
    order = DataOrder(seed=3, num_rows=64_000, block_rows=16, window_blocks=8)
    starts = order.rows(0, 64_000)[0].reshape(-1, 16 * 8) // 16
    spread = [len(np.unique(window)) for window in starts]
    assert set(spread) == {8}, "a window reads its own blocks and no others"
    assert np.mean(np.abs(np.diff(np.sort(np.unique(starts[0]))))) > 50, "which lie far apart"


def test_each_window_has_an_order_of_its_own() -> None:
    order = DataOrder(seed=3, num_rows=1600, block_rows=200, window_blocks=1)
    windows = order.rows(0, 1600)[0].reshape(8, 200) % 200
    assert len({tuple(window) for window in windows.tolist()}) == 8


def test_keys_are_unique_over_epochs_and_rows() -> None:
    _, key_R = DataOrder(seed=0, num_rows=5000).rows(0, 20_000)
    assert len(np.unique(key_R)) == 20_000
    _, other = DataOrder(seed=1, num_rows=5000).rows(0, 20_000)
    assert not np.intersect1d(key_R, other).size


def test_a_key_belongs_to_the_sample_not_to_the_row() -> None:
    """A row therefore has new dropout in each epoch."""
    order = DataOrder(seed=0, num_rows=50)
    rows, keys = order.rows(0, 100)
    first = dict(zip(rows[:50].tolist(), keys[:50].tolist(), strict=True))
    second = dict(zip(rows[50:].tolist(), keys[50:].tolist(), strict=True))
    assert all(first[row] != second[row] for row in first)


def test_an_empty_split_is_refused() -> None:
    with pytest.raises(ValueError, match="no rows"):
        DataOrder(seed=0, num_rows=0).rows(0, 1)


def test_a_large_split_costs_little_to_enter_anywhere() -> None:
    """With 100 M rows, only blocks and one window are permuted, never all rows."""
    order = DataOrder(seed=0, num_rows=100_000_000)
    started = time.perf_counter()
    row_R, _ = order.rows(73_000_123, 73_000_123 + 512)
    assert time.perf_counter() - started < 2
    assert len(np.unique(row_R // 256)) <= 2 * 64


def test_a_returned_array_may_be_written_to() -> None:
    """A caller gets a copy of the order that is cached between calls."""
    order = DataOrder(seed=0, num_rows=100)
    before = order.rows(0, 50)[0].copy()
    order.rows(0, 50)[0][:] = -1
    assert np.array_equal(order.rows(0, 50)[0], before)
