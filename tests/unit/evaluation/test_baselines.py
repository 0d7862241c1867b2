"""Baselines against sorted lists, one row at a time; and the pieces of a popularity count."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from skiprec.data.shards import Rows
from skiprec.evaluation.measure import baselines
from skiprec.evaluation.measure.baselines import own_item_ranks, popularity_places, popularity_ranks
from skiprec.evaluation.measure.scoring import score_baselines

NUM_ITEMS = 12


def draw_rows(num_rows: int = 200, num_positions: int = 8, seed: int = 0) -> tuple[Any, Any, Any]:
    draw = np.random.default_rng(seed)
    items_RT = draw.integers(1, NUM_ITEMS + 1, (num_rows, num_positions)).astype(np.int32)
    for row in range(num_rows):
        items_RT[row, : row % num_positions] = 0
    target_R = draw.integers(1, NUM_ITEMS + 1, num_rows).astype(np.int32)
    return items_RT, target_R, draw.permutation(NUM_ITEMS)


def by_popularity(place_V: Any) -> list[int]:
    return sorted(range(1, NUM_ITEMS + 1), key=lambda item: place_V[item - 1])


def own_list(items: list[int], by: str) -> list[int]:
    """A row's distinct items: the most frequent first, or the last first."""
    last = {item: place for place, item in enumerate(items)}
    count = {item: items.count(item) if by == "frequency" else 0 for item in last}
    return sorted(last, key=lambda item: (-count[item], -last[item]))


@pytest.mark.parametrize("by", ["frequency", "recency"])
def test_own_items_come_first_and_then_the_popular_ones(
    by: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    items_RT, target_R, place_V = draw_rows()
    monkeypatch.setattr(baselines, "COMPARED", 7 * items_RT.shape[1] ** 2)  # seven rows at a time
    rank_R = own_item_ranks(items_RT, target_R, place_V, by)
    for row, target in enumerate(target_R.tolist()):
        own = own_list([item for item in items_RT[row].tolist() if item], by)
        order = own + [item for item in by_popularity(place_V) if item not in own]
        assert rank_R[row] == order.index(target) + 1
    other = "recency" if by == "frequency" else "frequency"
    assert (rank_R != own_item_ranks(items_RT, target_R, place_V, other)).any()


@pytest.mark.parametrize("exclude_seen", [False, True])
def test_popularity_ranks_the_target_among_what_may_be_recommended(exclude_seen: bool) -> None:
    items_RT, target_R, place_V = draw_rows(seed=1)
    rank_R = popularity_ranks(items_RT, target_R, place_V, exclude_seen)
    for row, target in enumerate(target_R.tolist()):
        hidden = set(items_RT[row].tolist()) - {target} if exclude_seen else set()
        order = [item for item in by_popularity(place_V) if item not in hidden]
        assert rank_R[row] == order.index(target) + 1


def test_places_go_by_count_in_the_rows_then_by_id(monkeypatch: pytest.MonkeyPatch) -> None:
    items_RW = np.array([[0, 3, 3], [0, 0, 2], [2, 3, 5]], np.int32)
    shards = SimpleNamespace(
        num_rows=3,
        num_items=5,
        slice=lambda start, stop: SimpleNamespace(items_RW=items_RW[start:stop]),
    )
    monkeypatch.setattr(baselines, "READ_ROWS", 2)
    assert popularity_places(shards).tolist() == [3, 1, 0, 4, 2]  # type: ignore[arg-type]


def test_no_row_of_own_items_where_seen_ones_are_excluded(tmp_path: Path) -> None:
    items_RT, target_R, place_V = draw_rows()
    items_RW = np.concatenate([items_RT, target_R[:, None]], axis=1)
    none_R = np.zeros(len(items_RW), np.int32)
    rows = Rows(items_RW, none_R, none_R, np.arange(len(items_RW)))
    assert score_baselines(rows, place_V, True).keys() == {"rank_popularity"}
    assert len(score_baselines(rows, place_V, False)) == 3
