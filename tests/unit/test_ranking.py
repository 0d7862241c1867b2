"""Ranks and top-k lists against slow references, with ties and with seen items."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from skiprec import ranking
from skiprec.ranking import metric_values, metrics_from_ranks, target_ranks, top_items
from skiprec.scores import DotProduct


def coarse_problem(seed: int, num_rows: int, num_items: int) -> tuple[Tensor, DotProduct]:
    """Small integers, whose scores are exact in any order of summation and often tie."""
    draw = torch.Generator().manual_seed(seed)
    x_BD = torch.randint(-2, 3, (num_rows, 4), generator=draw).float()
    weight_VD = torch.randint(-2, 3, (num_items, 4), generator=draw).float()
    bias_V = torch.randint(-1, 2, (num_items,), generator=draw).float()
    return x_BD, DotProduct(weight_VD, bias_V)


def all_scores(x_BD: Tensor, scores: DotProduct) -> Tensor:
    return x_BD @ scores.weight_VD.t() + scores.bias_V


def sorted_items(scores_V: Tensor, seen: set[int]) -> list[int]:
    """All ranked items, best first, sorted by score and then by id."""
    keyed = [(-score, index + 1) for index, score in enumerate(scores_V.tolist())]
    return [item for _, item in sorted(keyed) if item not in seen]


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    num_rows=st.integers(1, 9),
    num_items=st.integers(1, 60),
    block_items=st.integers(1, 70),
    with_seen=st.booleans(),
)
def test_rank_is_the_place_in_the_sorted_catalogue(
    seed: int, num_rows: int, num_items: int, block_items: int, with_seen: bool
):
    x_BD, scores = coarse_problem(seed, num_rows, num_items)
    draw = torch.Generator().manual_seed(seed + 1)
    target_B = torch.randint(1, num_items + 1, (num_rows,), generator=draw)
    seen_BT = torch.randint(0, num_items + 1, (num_rows, 5), generator=draw) if with_seen else None
    rank_B = target_ranks(x_BD, scores, target_B=target_B, seen_BT=seen_BT, block_items=block_items)
    for row in range(num_rows):
        target = int(target_B[row])
        seen = set() if seen_BT is None else set(seen_BT[row].tolist()) - {target}
        order = sorted_items(all_scores(x_BD[row], scores), seen)
        assert int(rank_B[row]) == order.index(target) + 1


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    num_rows=st.integers(1, 9),
    num_items=st.integers(1, 60),
    k=st.integers(1, 12),
    with_seen=st.booleans(),
)
def test_top_items_are_the_head_of_the_sorted_catalogue(
    seed: int, num_rows: int, num_items: int, k: int, with_seen: bool
):
    k = min(k, num_items)
    x_BD, scores = coarse_problem(seed, num_rows, num_items)
    draw = torch.Generator().manual_seed(seed + 1)
    seen_BT = torch.randint(0, num_items + 1, (num_rows, 5), generator=draw) if with_seen else None
    items_BK, scores_BK = top_items(x_BD, scores, k=k, seen_BT=seen_BT)
    for row in range(num_rows):
        scores_V = all_scores(x_BD[row], scores)
        seen = set() if seen_BT is None else set(seen_BT[row].tolist())
        order = sorted_items(scores_V, seen)[:k]
        assert items_BK[row, : len(order)].tolist() == order
        assert scores_BK[row, : len(order)].tolist() == [scores_V[item - 1] for item in order]
        assert (scores_BK[row, len(order) :] == -torch.inf).all()


def test_search_in_groups_finds_what_topk_finds(monkeypatch: pytest.MonkeyPatch):
    draw = torch.Generator().manual_seed(0)
    x_BD = torch.randn(33, 8, generator=draw)
    weight_VD, bias_V = torch.randn(11_003, 8, generator=draw), torch.zeros(11_003)
    weight_VD[-3:] = (
        x_BD[:3] * 10
    )  # for some rows, the best items are the last ones, which belong to no whole group
    scores = DotProduct(weight_VD, bias_V)
    scores_BV = torch.addmm(bias_V, x_BD, weight_VD.t())
    assert 11_003 // ranking.GROUP_ITEMS > 8 * 21  # with fewer groups, they would not be searched
    expected = scores_BV.topk(20, dim=1)
    items_BK, scores_BK = top_items(x_BD, scores, k=20)
    assert torch.equal(items_BK, expected.indices + 1)
    assert torch.equal(scores_BK, expected.values)
    monkeypatch.setattr(ranking, "MAX_SCORES", 5 * 11_003)  # chunks of five rows
    in_parts = top_items(x_BD, scores, k=20)[0]
    assert torch.equal(in_parts, items_BK)


def test_place_in_the_list_is_the_rank():
    x_BD, scores = coarse_problem(3, num_rows=6, num_items=40)
    items_BK, _ = top_items(x_BD, scores, k=10)
    for place in range(10):
        rank_B = target_ranks(x_BD, scores, target_B=items_BK[:, place], block_items=7)
        assert (rank_B == place + 1).all()


def test_a_broken_network_ranks_last_and_a_fill_row_ranks_zero():
    x_BD, scores = coarse_problem(4, num_rows=2, num_items=10)
    x_BD[0, 0] = torch.nan
    rank_B = target_ranks(x_BD, scores, target_B=torch.tensor([3, 0]))
    assert rank_B.tolist() == [11, 0]
    with pytest.raises(ValueError, match="rank 0 marks a fill row"):
        metric_values(rank_B)


def test_no_rows_have_no_ranks():
    x_BD, scores = coarse_problem(0, 4, 9)
    ranks = target_ranks(x_BD[:0], scores, target_B=torch.zeros(0, dtype=torch.int64))
    assert ranks.shape == (0,)
    assert ranks.dtype == torch.int64


def test_bfloat16_scores_do_not_tie_by_rounding():
    draw = torch.Generator().manual_seed(1)
    x_BD = torch.randn(4, 32, generator=draw).bfloat16()
    weight_VD = torch.randn(3000, 32, generator=draw).bfloat16()
    bias_V = torch.zeros(3000).bfloat16()
    target_B = torch.full((4,), 1500)
    exact = DotProduct(weight_VD.float(), bias_V.float())
    expected = target_ranks(x_BD.float(), exact, target_B=target_B)
    rounded_weights = DotProduct(weight_VD, bias_V)
    assert torch.equal(target_ranks(x_BD, rounded_weights, target_B=target_B), expected)
    rounded_BV = x_BD @ weight_VD.t()  # control: plain bfloat16 would change a rank
    rounded = 1 + (rounded_BV > rounded_BV[:, 1499:1500]).sum(1)
    assert not torch.equal(rounded, expected)


def test_targets_of_another_catalogue_are_refused():
    x_BD, scores = coarse_problem(5, num_rows=2, num_items=10)
    with pytest.raises(ValueError, match=r"targets 3\.\.11 for a head of 10 items"):
        target_ranks(x_BD, scores, target_B=torch.tensor([3, 11]))
    with pytest.raises(ValueError, match="k=11 of a catalogue of 10"):
        top_items(x_BD, scores, k=11)


def test_metrics_follow_their_definitions():
    ranks = [1, 5, 6, 10, 11, 20, 21]
    actual = metrics_from_ranks(torch.tensor(ranks))
    expected = {
        "mrr@5": sum(1 / r for r in ranks if r <= 5) / 7,
        "mrr@20": sum(1 / r for r in ranks if r <= 20) / 7,
        "hr@5": 2 / 7,
        "hr@20": 6 / 7,
        "hr@10": 4 / 7,
        "ndcg@10": sum(1 / math.log2(1 + r) for r in ranks if r <= 10) / 7,
    }
    assert actual == pytest.approx(expected)
