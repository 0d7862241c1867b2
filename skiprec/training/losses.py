"""Next-item cross-entropy. The scores of all positions for all items are never in memory at once.

`full_softmax` and `sampled_softmax` are functions of (x_ND, scores), as a head calls them in its
forward.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from skiprec import keyed_random
from skiprec.scores import DotProduct, Scores

CHUNK_SCORES = 2**24


def full_softmax(x_ND: Tensor, scores: Scores, *, target_N: Tensor) -> Tensor:
    """The sum over N of -log softmax(x W + b)[target], in nats.

    Scores are computed and dropped in chunks of positions. `target_N` holds item ids (1 to V).

    Raises:
        ValueError: the scores are not a product of two matrices.
    """
    if not isinstance(scores, DotProduct):
        raise ValueError(
            "loss.kind='full' needs scores that are a matrix product, and this baseline's are not; "
            "set loss.kind='sampled' and loss.num_negatives"
        )
    loss: Tensor = F.linear_cross_entropy(
        x_ND,
        scores.weight_VD,
        target_N - 1,
        linear_bias=scores.bias_V,
        reduction="sum",
        options=nn.LinearCrossEntropyOptions(
            batch_chunk_size=_chunk_rows(scores.num_items),
            chunking_method=None,
            acc_policy="accurate",
        ),
    )
    return loss


def _chunk_rows(num_items: int) -> int:
    """Number of positions in a chunk, so that the scores of a chunk take at most 64 MB.

    The default of torch makes chunks smaller as the catalogue grows. At 54,000 items it takes six
    times as long as this choice (benchmarks/bench_loss.py).
    """
    return max(16, min(512, CHUNK_SCORES // num_items))


@dataclass(frozen=True)
class Negatives:
    """Sets of items that a training step draws, and which of them each position takes.

    Args:
        item_GS: item ids, from 1 on.
        set_N: the set of each position; None if there is one set.
        uniform: whether items are drawn uniformly; else log-uniformly.
    """

    item_GS: Tensor
    set_N: Tensor | None = None
    uniform: bool = False


def sampled_softmax(
    x_ND: Tensor, scores: Scores, *, target_N: Tensor, negatives: Negatives
) -> Tensor:
    """The sum over N of the softmax loss over the target and S importance-weighted negatives, nats.

    S negatives are drawn from the distribution q, so negative j is expected S q_j times. Its score
    becomes s_j - log(S q_j) (Blanc & Rendle, ICML 2018, eq. 5), so that the loss tends to the full
    loss as S grows. A negative that equals the target is left out.
    """
    score_NC = sampled_scores(x_ND, scores, target_N=target_N, negatives=negatives)
    return (score_NC.logsumexp(1) - score_NC[:, 0]).sum()


def sampled_scores(
    x_ND: Tensor, scores: Scores, *, target_N: Tensor, negatives: Negatives
) -> Tensor:
    """`[N, 1 + S]`, float32: the target's score, then the corrected ones of the negatives."""
    positive_N = scores.own(x_ND, target_N).float()
    if negatives.set_N is None:
        score_NS = _corrected(x_ND, scores, target_N, negatives.item_GS[0], negatives.uniform)
        return torch.cat([positive_N[:, None], score_NS], dim=1)
    sizes = torch.bincount(negatives.set_N, minlength=len(negatives.item_GS)).tolist()
    place_N = negatives.set_N.argsort(stable=True)
    parts = zip(
        torch.split(x_ND[place_N], sizes),
        torch.split(target_N[place_N], sizes),
        negatives.item_GS,
        strict=True,
    )
    score_NS = torch.cat([_corrected(x, scores, t, i, negatives.uniform) for x, t, i in parts])
    return torch.cat([positive_N[:, None], score_NS[place_N.argsort()]], dim=1)


def _corrected(
    x_ND: Tensor, scores: Scores, target_N: Tensor, item_S: Tensor, uniform: bool
) -> Tensor:
    """`[N, S]`, float32: the corrected scores of negatives that these positions share."""
    prob_S = log_uniform_prob(item_S, scores.num_items)
    prob_S = torch.full_like(prob_S, 1 / scores.num_items) if uniform else prob_S
    log_count_S = prob_S.log() + math.log(len(item_S))
    score_NS = scores.shared(x_ND, item_S).float() - log_count_S
    return score_NS.masked_fill(target_N[:, None] == item_S, -torch.inf)


def log_uniform_prob(item_S: Tensor, num_items: int) -> Tensor:
    """q(v) = log((v + 1) / v) / log(V + 1), a Zipf distribution: frequent items have small ids."""
    return torch.log1p(1.0 / item_S) / math.log(num_items + 1)


def draw_negatives(
    key: int, num_negatives: int, num_items: int, device: torch.device, uniform: bool = False
) -> Tensor:
    """`item_S`: item ids, log-uniform or uniform.

    They come from the inverse of the distribution function at numbers of 46 random bits. With the
    23 bits of one draw, most of the rare items of a large catalogue would never be drawn: beyond id
    600,000 of a million, neighbouring items are less than one step of 2^-23 apart.
    """
    key_1 = torch.tensor([key - (1 << 63)], dtype=torch.int64, device=device)
    coarse_S, fine_S = (
        keyed_random.uniform(key_1, "negatives", 2 * num_negatives)[0]
        .double()
        .view(2, num_negatives)
    )
    u_S = coarse_S + (fine_S - 0.5) * 2.0**-23
    if uniform:
        place_S: Tensor = (u_S * num_items).long()
        return place_S.clamp(0, num_items - 1) + 1
    item_S = torch.exp(u_S * math.log(num_items + 1)).long()
    return item_S.clamp(1, num_items)
