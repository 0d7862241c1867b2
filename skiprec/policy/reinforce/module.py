"""SkipRec-RL: a policy that samples decisions and learns from rewards."""

import math

import torch
from torch import Tensor

from skiprec import keyed_random
from skiprec.policy.base import LinearRule, PolicyModule
from skiprec.policy.decisions import KEEP, argmax_keep
from skiprec.policy.knobs import Knob, ThresholdKnob
from skiprec.policy.reinforce.options import Options
from skiprec.policy.trunk import KeepHead, build_trunk
from skiprec.types import History, KeepDecision


class Policy(PolicyModule):
    """Samples in training. In serving it keeps the blocks whose keep logit is the larger one."""

    def __init__(self, options: Options, num_items: int, backbone_width: int, num_blocks: int):
        super().__init__()
        self.options = options
        self.num_blocks = num_blocks
        self.trunk = build_trunk(options, num_items, backbone_width)
        self.head = KeepHead(options.width, num_blocks)

    def reset_parameters(self, generator: torch.Generator) -> None:
        """Draws the weights so that every block starts at P(keep) = `initial_keep_prob`."""
        self.trunk.reset_parameters(generator)
        keep = self.options.initial_keep_prob
        self.head.reset_parameters(generator, skip=0.0, keep=math.log(keep / (1 - keep)))

    def forward(self, history: History, progress: float | None) -> KeepDecision:
        """See `PolicyModule`. In training, `prob_BL` is the probability of the sampled decisions.

        `prob_bound` pulls P(keep) towards one half, and a block that is not free yet has
        probability 1. The deterministic decision is `prob_BL > 0.5` in both cases.
        """
        logits_BL2: Tensor = self.head(self.trunk(history))
        if progress is None:
            return argmax_keep(logits_BL2)
        prob_BL = bounded(logits_BL2.float().softmax(-1)[..., KEEP], self.options.prob_bound)
        num_held = self.num_blocks - self.options.num_free_blocks(self.num_blocks, progress)
        prob_BL = torch.cat([torch.ones_like(prob_BL[:, :num_held]), prob_BL[:, num_held:]], dim=1)
        coin_BL = keyed_random.uniform(history.key_B, "reinforce", self.num_blocks)
        return KeepDecision((coin_BL < prob_BL.detach()).float(), prob_BL)

    @property
    def linear_rule(self) -> LinearRule:
        """See `PolicyModule`."""
        return LinearRule("two_logits")

    @property
    def knob(self) -> Knob:
        """The threshold on P(keep)."""
        return ThresholdKnob()


def bounded(prob_BL: Tensor, bound: float) -> Tensor:
    """a p + (1 - a)(1 - p) with a = `bound`: below a = 1, no decision is ever certain.

    Source: BlockDrop, CVPR 2018, eq. 6.
    """
    return bound * prob_BL + (1 - bound) * (1 - prob_BL)
