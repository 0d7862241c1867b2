"""From keep logits to keep decisions. Sampling and inference are different functions."""

import torch
from torch import Tensor

from skiprec import keyed_random
from skiprec.types import KeepDecision

SKIP, KEEP = 0, 1
TINY = 1e-6


def gumbel_keep(logits_BL2: Tensor, temperature: float, key_B: Tensor) -> KeepDecision:
    """Hard samples with the gradient of the relaxed ones (straight-through Gumbel-softmax).

    Jang et al., ICLR 2017; the slides' equations for z and alpha. `soft - soft.detach()` is an
    exact zero, so the decision is exactly 0.0 or 1.0.
    """
    num_rows, num_blocks, _ = logits_BL2.shape
    noise_B2L = keyed_random.uniform(key_B, "gumbel", 2 * num_blocks)
    gumbel_BL2 = -torch.log(-torch.log(noise_B2L.view(num_rows, num_blocks, 2)))
    logits_BL2 = logits_BL2.float()
    soft_BL = ((logits_BL2 + gumbel_BL2) / temperature).softmax(-1)[..., KEEP]
    hard_BL = (soft_BL > 0.5).float()
    return KeepDecision(hard_BL + (soft_BL - soft_BL.detach()), logits_BL2.softmax(-1)[..., KEEP])


def argmax_keep(logits_BL2: Tensor) -> KeepDecision:
    """Keep where the keep logit is the larger one: deterministic, for evaluation and serving."""
    logits_BL2 = logits_BL2.float()
    keep_BL = (logits_BL2[..., KEEP] > logits_BL2[..., SKIP]).float()
    return KeepDecision(keep_BL, logits_BL2.softmax(-1)[..., KEEP])


def entropy(prob: Tensor) -> Tensor:
    """Of each coin on its own, in nats; as large as `prob`."""
    prob = prob.clamp(TINY, 1 - TINY)
    return -prob * prob.log() - (1 - prob) * (1 - prob).log()
