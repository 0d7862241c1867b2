"""Stochastic depth: a backbone trains with blocks left out, so that it tolerates skipped blocks."""

import torch
from torch import Tensor

from skiprec import keyed_random
from skiprec.types import KeepDecision


def kept_at_random(key_B: Tensor, rate: float, num_blocks: int) -> KeepDecision:
    """A decision that leaves block l of N (from 1) out of a row with probability `rate * l / N`.

    Source: Huang et al., ECCV 2016. As in LayerDrop (Fan et al., ICLR 2020), kept branches are not
    rescaled, because serving keeps or skips the same blocks without rescaling.
    """
    coin_BL = keyed_random.uniform(key_B, "stochastic-depth", num_blocks)
    rate_L = rate * torch.arange(1, num_blocks + 1, device=key_B.device) / num_blocks
    return KeepDecision((coin_BL >= rate_L).float(), None)
