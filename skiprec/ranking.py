"""Exact ranking against the whole catalogue, shared by training's validation and evaluation.

Items are ordered by falling score, and equal scores by rising item id, so a rank is a function of
the scores alone. Scores are float32 at every precision of the network: in bf16, thousands of items
would tie, and a tie favours the frequent items, whose ids are small.
"""

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from skiprec.scores import Scores
from skiprec.types import PADDING

METRIC_CUTS = {"mrr@5": 5, "mrr@20": 20, "hr@5": 5, "hr@20": 20, "hr@10": 10, "ndcg@10": 10}
# The best items of a row are found by the maxima of its groups, then by a search in few groups.
GROUP_ITEMS = 64
MAX_SCORES = 2**24


@torch.no_grad()
def target_ranks(
    x_BD: Tensor,
    scores: Scores,
    *,
    target_B: Tensor,
    seen_BT: Tensor | None = None,
    block_items: int = 8192,
) -> Tensor:
    """`rank_B`, int64: 1 + the number of items that are ranked before the target.

    At most `MAX_SCORES` scores, and one block of `block_items` scores for each row, are in memory.
    The target's score comes from the same product, of the same shape, as the scores that it is
    compared with, so equal items have exactly equal scores.

    Args:
        target_B: item ids; a row with target 0 (a fill row) gets rank 0.
        seen_BT: ids of items that are left out of the ranking, 0 for none. The target always stays.

    Raises:
        ValueError: a target is not in the catalogue.
    """
    num_items = scores.num_items
    if not len(target_B):
        return torch.zeros_like(target_B)
    lowest, highest = (int(id_) for id_ in target_B.aminmax())  # the one wait for the device
    if lowest < PADDING or highest > num_items:
        raise ValueError(
            f"targets {lowest}..{highest} for a head of {num_items} items; "
            "the network was trained on another catalogue than this data"
        )
    x_BD = x_BD.float()
    column_B = (target_B - 1).clamp(min=0)
    block_B = column_B // block_items
    kept: dict[int, Tensor] = {}  # scores for the second loop, as far as memory allows
    score_B1 = x_BD.new_empty(len(x_BD), 1)
    # Ids are sorted by falling frequency, so the targets of a batch lie in few blocks.
    for block in sorted(set(block_B.tolist())):
        start = block * block_items
        scores_BI = _block(x_BD, scores, start, block_items)
        if (len(kept) + 1) * scores_BI.numel() <= MAX_SCORES:
            kept[block] = scores_BI
        is_here_B1 = (block_B == block)[:, None]
        local_B1 = (column_B - start).clamp(0, scores_BI.shape[1] - 1)[:, None]
        score_B1 = torch.where(is_here_B1, scores_BI.gather(1, local_B1), score_B1)
    num_after_B = torch.zeros_like(target_B)
    for block, start in enumerate(range(0, num_items, block_items)):
        scores_BI = kept.pop(block) if block in kept else _block(x_BD, scores, start, block_items)
        column_I = torch.arange(start, start + scores_BI.shape[1], device=x_BD.device)
        stands_after_BI = (scores_BI == score_B1) & (column_I >= column_B[:, None])
        stands_after_BI |= scores_BI < score_B1
        if seen_BT is not None:
            stands_after_BI[_cells(seen_BT, start, scores_BI.shape[1])] = True
        # The default sum of booleans is 64 bits wide, which is twice as slow.
        num_after_B += stands_after_BI.sum(1, dtype=torch.int32)
    # We count the items after the target, so that a target with the score NaN ranks last, not
    # first. The target itself is counted among them.
    return torch.where(target_B == PADDING, 0, 1 + num_items - num_after_B)


def target_hits(x_BD: Tensor, scores: Scores, *, target_B: Tensor, cut: int) -> Tensor:
    """`[B]`, bool: whether each row's target is among the `cut` best items.

    A row without a target (0) is no hit. Under ZeRO-3 the head is a collective, so every rank calls
    it, even with no rows.
    """
    if len(target_B) == 0:  # in the last pass of a split, a rank may have no rows
        return target_B > 0
    rank_B = target_ranks(x_BD, scores, target_B=target_B)
    return (rank_B >= 1) & (rank_B <= cut)


@torch.no_grad()
def row_cross_entropy(x_ND: Tensor, scores: Scores, *, target_N: Tensor) -> Tensor:
    """`[N]`: the cross-entropy of each row over the whole catalogue, in nats, without gradient.

    The scores are computed in chunks of rows.
    """
    parts = [
        F.cross_entropy(
            scores.columns(x_ND[rows].float(), 0, scores.num_items),
            (target_N[rows] - 1).clamp(min=0),
            reduction="none",
        )
        for rows in _row_chunks(len(x_ND), scores.num_items)
    ]
    return torch.cat(parts)


@torch.no_grad()
def lost_reciprocal_rank(x_ND: Tensor, scores: Scores, *, target_N: Tensor) -> Tensor:
    """`[N]`: minus what each row adds to MRR@20, which is 1 / rank up to rank 20.

    A row without a target (0) has 0.
    """
    parts = []
    for rows in _row_chunks(len(x_ND), scores.num_items):
        rank_N = target_ranks(x_ND[rows], scores, target_B=target_N[rows])
        parts.append(torch.where((rank_N >= 1) & (rank_N <= 20), -1 / rank_N, 0.0))
    return torch.cat(parts)


@torch.no_grad()
def certainty(x_ND: Tensor, scores: Scores) -> Tensor:
    """`[N, 2]`: the entropy of the softmax over all items, and the margin; both in nats.

    The margin is log p of the best item minus that of the second best. The scores are computed in
    chunks of rows.
    """
    parts = []
    for rows in _row_chunks(len(x_ND), scores.num_items):
        some_ND = x_ND[rows].float()
        log_prob_NV = scores.columns(some_ND, 0, scores.num_items).log_softmax(1)
        entropy_N = -(log_prob_NV.exp() * log_prob_NV).sum(1)
        best_N2 = log_prob_NV.topk(min(2, scores.num_items), dim=1).values
        parts.append(torch.stack([entropy_N, best_N2[:, 0] - best_N2[:, -1]], dim=1))
    return torch.cat(parts)


@torch.no_grad()
def top_items(
    x_BD: Tensor, scores: Scores, *, k: int, seen_BT: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """The `k` best items of each row, best first: `items_BK`, int64, and `scores_BK`.

    The order is that of `target_ranks`: the item at place r has rank r.

    Args:
        seen_BT: ids of items that are left out, 0 for none. If fewer than `k` other items are in
            the catalogue, these items fill the end of the list with scores of minus infinity.

    Raises:
        ValueError: `k` is not between 1 and the size of the catalogue.
    """
    num_items = scores.num_items
    if not 1 <= k <= num_items:
        raise ValueError(f"k={k} of a catalogue of {num_items} items; expected 1 to {num_items}")
    parts = [
        _top_of_rows(
            _block(x_BD[rows].float(), scores, 0, num_items),
            k,
            None if seen_BT is None else seen_BT[rows],
        )
        for rows in _row_chunks(len(x_BD), num_items)
    ]
    if len(parts) == 1:
        return parts[0]
    items, scores_of_items = zip(*parts, strict=True)
    return torch.cat(items), torch.cat(scores_of_items)


def metric_values(rank_B: Tensor) -> dict[str, Tensor]:
    """The value of each metric for each row, float64. A metric is the mean over rows."""
    if len(rank_B) and int(rank_B.min()) < 1:
        raise ValueError("ranks count from 1; rank 0 marks a fill row, which must be cut off first")
    rank = rank_B.double()
    gain = {"mrr": 1 / rank, "hr": torch.ones_like(rank), "ndcg": 1 / torch.log2(1 + rank)}
    return {
        name: torch.where(rank <= cut, gain[name.split("@")[0]], 0.0)
        for name, cut in METRIC_CUTS.items()
    }


def metrics_from_ranks(rank_B: Tensor) -> dict[str, float]:
    """MRR, hit rate and NDCG at the cuts of `METRIC_CUTS`, with one relevant item in each row."""
    return {name: float(value_B.mean()) for name, value_B in metric_values(rank_B).items()}


def _block(x_BD: Tensor, scores: Scores, start: int, block_items: int) -> Tensor:
    return scores.columns(x_BD, start, min(start + block_items, scores.num_items))


def _cells(item_BT: Tensor, start: int, num_columns: int) -> tuple[Tensor, Tensor]:
    """(row, column) of the items whose columns are among the `num_columns` columns from `start`."""
    column_BT = item_BT - 1 - start
    row_N, position_N = ((column_BT >= 0) & (column_BT < num_columns)).nonzero(as_tuple=True)
    return row_N, column_BT[row_N, position_N]


def _row_chunks(num_rows: int, num_items: int) -> Iterator[slice]:
    size = max(1, MAX_SCORES // num_items)
    return (slice(start, start + size) for start in range(0, max(1, num_rows), size))


def _top_of_rows(scores_BV: Tensor, k: int, seen_BT: Tensor | None) -> tuple[Tensor, Tensor]:
    if seen_BT is not None:
        scores_BV[_cells(seen_BT, 0, scores_BV.shape[1])] = -torch.inf
    num_checked = min(k + 1, scores_BV.shape[1])
    score_BK, column_BK = _largest(scores_BV, num_checked)
    # `topk` orders equal scores arbitrarily. One item more than `k` also shows a tie at the end.
    tied_BK = score_BK[:, 1:] == score_BK[:, :-1]
    if bool(tied_BK.any()):
        tied_B = tied_BK.any(1)
        exact = scores_BV[tied_B].sort(dim=1, descending=True, stable=True)
        score_BK[tied_B] = exact.values[:, :num_checked]
        column_BK[tied_B] = exact.indices[:, :num_checked]
    return column_BK[:, :k] + 1, score_BK[:, :k]


def _largest(scores_BV: Tensor, num: int) -> tuple[Tensor, Tensor]:
    """The `num` largest scores of each row and their columns, as `topk` returns them.

    The result is exact, but the choice among equal scores is arbitrary. Only the `num` groups with
    the largest maxima are searched. Their maxima alone are `num` scores, each at least as large as
    every score of the other groups.
    """
    num_groups = scores_BV.shape[1] // GROUP_ITEMS
    if num_groups <= 8 * num:  # with few items, the search by groups costs more than it saves
        best = scores_BV.topk(num, dim=1)
        return best.values, best.indices
    whole = num_groups * GROUP_ITEMS
    max_BG = scores_BV[:, :whole].view(-1, num_groups, GROUP_ITEMS).amax(2)
    group_BK = max_BG.topk(num, dim=1, sorted=False).indices
    within = torch.arange(GROUP_ITEMS, device=scores_BV.device)
    column_BC = (group_BK[:, :, None] * GROUP_ITEMS + within).flatten(1)
    rest = torch.arange(whole, scores_BV.shape[1], device=scores_BV.device)
    column_BC = torch.cat([column_BC, rest.expand(len(scores_BV), -1)], dim=1)
    best = scores_BV.gather(1, column_BC).topk(num, dim=1)
    return best.values, column_BC.gather(1, best.indices)
