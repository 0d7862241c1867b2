"""SkipRec-Gumbel: decisions by straight-through Gumbel-softmax."""

import math

import torch
from torch import Tensor

from skiprec.policy.decisions import argmax_keep, gumbel_keep
from skiprec.policy.priced import PricedPolicy
from skiprec.policy.schedules import temperature
from skiprec.policy.trunk import KeepHead, PolicyTrunk
from skiprec.policy_config import GumbelPolicyConfig
from skiprec.types import History, KeepDecision

FIRST_PRICE = 0.01


class GumbelPolicy(PricedPolicy):
    """Samples while training, argmax in serving.

    `price_1` is what the loss charges for keeping every block, in nats. It moves, and is charged,
    with `policy.budget="shared"` alone (`training/gumbel_terms.py`).
    """

    def __init__(
        self, config: GumbelPolicyConfig, num_items: int, backbone_width: int, num_blocks: int
    ):
        super().__init__(FIRST_PRICE)
        self.config = config
        self.trunk = PolicyTrunk(config, num_items, backbone_width)
        self.head = KeepHead(config.width, num_blocks)

    def reset_parameters(self, generator: torch.Generator) -> None:
        """Every block first has P(keep) = `initial_keep_prob`."""
        assert self.config.initial_keep_prob is not None
        self.trunk.reset_parameters(generator)
        # What the two logits of a block must differ by.
        gap = math.log(self.config.initial_keep_prob / (1 - self.config.initial_keep_prob))
        if self.config.logits == "sigmoid":
            half = math.log((1 + gap) / (1 - gap))
            self.head.reset_parameters(generator, skip=-half, keep=half)
        else:
            self.head.reset_parameters(generator, skip=0.0, keep=gap)

    def logits(self, history: History) -> Tensor:
        """`[B, L, 2]`, float32."""
        logits_BL2: Tensor = self.head(self.trunk(history))
        if self.config.logits == "sigmoid":
            # The released code squashes here, which bounds P(keep) to (0.27, 0.73).
            logits_BL2 = torch.sigmoid(logits_BL2)
        return logits_BL2.float()

    def forward(self, history: History, progress: float | None) -> KeepDecision:
        """See `registry.py`."""
        logits_BL2 = self.logits(history)
        if progress is not None:
            return gumbel_keep(logits_BL2, temperature(self.config, progress), history.key_B)
        if self.config.noise_at_inference:  # the released code samples here too; ours, by row key
            return gumbel_keep(logits_BL2, self.config.temperature_end, history.key_B)
        return argmax_keep(logits_BL2)
