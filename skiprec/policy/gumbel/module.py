"""SkipRec-Gumbel: a policy that decides by straight-through Gumbel-softmax."""

import math

import torch
from torch import Tensor

from skiprec import keyed_random
from skiprec.policy.base import LinearRule
from skiprec.policy.decisions import KEEP, argmax_keep
from skiprec.policy.gumbel.options import Options
from skiprec.policy.knobs import Knob, ThresholdKnob
from skiprec.policy.priced import PricedPolicy
from skiprec.policy.trunk import KeepHead, build_trunk
from skiprec.types import History, KeepDecision

FIRST_PRICE = 0.01


class Policy(PricedPolicy):
    """Samples in training. In serving it keeps the blocks whose keep logit is the larger one.

    `price_1` is the price in nats that the loss adds for keeping every block. Only
    `policy.budget = "shared"` uses it (see `training.py`).
    """

    def __init__(self, options: Options, num_items: int, backbone_width: int, num_blocks: int):
        super().__init__(FIRST_PRICE)
        self.options = options
        self.trunk = build_trunk(options, num_items, backbone_width)
        self.head = KeepHead(options.width, num_blocks)

    def reset_parameters(self, generator: torch.Generator) -> None:
        """Draws the weights so that every block starts at P(keep) = `initial_keep_prob`."""
        assert self.options.initial_keep_prob is not None
        self.trunk.reset_parameters(generator)
        # The difference between the keep logit and the skip logit of a block.
        gap = math.log(self.options.initial_keep_prob / (1 - self.options.initial_keep_prob))
        if self.options.logits == "sigmoid":
            half = math.log((1 + gap) / (1 - gap))
            self.head.reset_parameters(generator, skip=-half, keep=half)
        else:
            self.head.reset_parameters(generator, skip=0.0, keep=gap)

    def logits(self, history: History) -> Tensor:
        """`[B, L, 2]`, float32: the logits of the two-way softmax."""
        logits_BL2: Tensor = self.head(self.trunk(history))
        if self.options.logits == "sigmoid":
            # The released code squashes the logits, which bounds P(keep) to (0.27, 0.73).
            logits_BL2 = torch.sigmoid(logits_BL2)
        return logits_BL2.float()

    def forward(self, history: History, progress: float | None) -> KeepDecision:
        """See `PolicyModule`."""
        logits_BL2 = self.logits(history)
        if progress is not None:
            return gumbel_keep(logits_BL2, self.options.temperature(progress), history.key_B)
        if self.options.noise_at_inference:
            # The released code samples in serving, too. Our noise comes from the row's key.
            return gumbel_keep(logits_BL2, self.options.temperature_end, history.key_B)
        return argmax_keep(logits_BL2)

    @property
    def linear_rule(self) -> LinearRule | None:
        """See `PolicyModule`. Noise at inference is no rule of the output alone."""
        if self.options.noise_at_inference:
            return None
        return LinearRule("sigmoids" if self.options.logits == "sigmoid" else "two_logits")

    @property
    def knob(self) -> Knob:
        """The threshold on P(keep)."""
        return ThresholdKnob()


def gumbel_keep(logits_BL2: Tensor, temperature: float, key_B: Tensor) -> KeepDecision:
    """Hard samples with the gradient of the relaxed samples (straight-through Gumbel-softmax).

    Source: Jang et al., ICLR 2017; the equations for z and alpha of the slides. `soft -
    soft.detach()` is exactly zero, so the decision is exactly 0.0 or 1.0.
    """
    num_rows, num_blocks, _ = logits_BL2.shape
    uniform_BL2 = keyed_random.uniform(key_B, "gumbel", 2 * num_blocks).view(
        num_rows, num_blocks, 2
    )
    gumbel_BL2 = -torch.log(-torch.log(uniform_BL2))
    logits_BL2 = logits_BL2.float()
    soft_BL = ((logits_BL2 + gumbel_BL2) / temperature).softmax(-1)[..., KEEP]
    hard_BL = (soft_BL > 0.5).float()
    return KeepDecision(hard_BL + (soft_BL - soft_BL.detach()), logits_BL2.softmax(-1)[..., KEEP])
