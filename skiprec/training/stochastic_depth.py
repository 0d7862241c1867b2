"""Blocks left out at random while a backbone trains, so that it gets used to being skipped."""

import torch
from torch import Tensor

from skiprec import keyed_random
from skiprec.types import KeepDecision


def kept_at_random(key_B: Tensor, rate: float, num_blocks: int) -> KeepDecision:
    """Block l of N (from 1) is left out of a row with probability `rate * l / N`.

    Huang et al., ECCV 2016, but kept branches are not rescaled: as in LayerDrop (Fan et al., ICLR
    2020), since the same blocks will later be kept or skipped as they are.
    """
    coin_BL = keyed_random.uniform(key_B, "stochastic-depth", num_blocks)
    rate_L = rate * torch.arange(1, num_blocks + 1, device=key_B.device) / num_blocks
    return KeepDecision((coin_BL >= rate_L).float(), None)
