"""Whether a row's target is among the best at the last position: a reward, or an easy row."""

from functools import partial

from torch import Tensor

from skiprec.network import SkipRecNetwork
from skiprec.ranking import target_ranks
from skiprec.scores import Scores
from skiprec.types import Batch


def hits(network: SkipRecNetwork, x_BD: Tensor, batch: Batch, cut: int) -> Tensor:
    """`[B]`, bool; a row without a target hits nothing. `x_BD` is the last position.

    Every rank must call it, with zero rows if need be: under ZeRO-3 the head is a collective.
    """
    is_hit_B: Tensor = network.head(x_BD, partial(_hits, target_B=batch.target_BT[:, -1], cut=cut))
    return is_hit_B


def _hits(x_BD: Tensor, scores: Scores, *, target_B: Tensor, cut: int) -> Tensor:
    if len(target_B) == 0:  # a pass of the last rows may leave a rank without any
        return target_B > 0
    rank_B = target_ranks(x_BD, scores, target_B=target_B)
    return (rank_B >= 1) & (rank_B <= cut)
