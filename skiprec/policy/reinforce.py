"""SkipRec-RL: decisions by coins, learned from rewards (`training/self_critical.py`)."""

import math

import torch
from torch import Tensor, nn

from skiprec import keyed_random
from skiprec.policy.decisions import KEEP, argmax_keep
from skiprec.policy.schedules import num_free_blocks
from skiprec.policy.trunk import KeepHead, PolicyTrunk
from skiprec.policy_config import ReinforcePolicyConfig
from skiprec.types import History, KeepDecision


class ReinforcePolicy(nn.Module):
    """Coins while training, argmax in serving."""

    def __init__(
        self, config: ReinforcePolicyConfig, num_items: int, backbone_width: int, num_blocks: int
    ):
        super().__init__()
        self.config = config
        self.num_blocks = num_blocks
        self.trunk = PolicyTrunk(config, num_items, backbone_width)
        self.head = KeepHead(config.width, num_blocks)

    def reset_parameters(self, generator: torch.Generator) -> None:
        """Every block first has P(keep) = `initial_keep_prob`."""
        self.trunk.reset_parameters(generator)
        keep = self.config.initial_keep_prob
        self.head.reset_parameters(generator, skip=0.0, keep=math.log(keep / (1 - keep)))

    def forward(self, history: History, progress: float | None) -> KeepDecision:
        """See `registry.py`. While training, `prob_BL` is what the coins were drawn with.

        That is P(keep) drawn towards a half by `prob_bound`, and 1 for a block that is not free
        yet. The deterministic decision is `prob_BL > 0.5` in either case.
        """
        logits_BL2: Tensor = self.head(self.trunk(history))
        if progress is None:
            return argmax_keep(logits_BL2)
        prob_BL = bounded(logits_BL2.float().softmax(-1)[..., KEEP], self.config.prob_bound)
        held = self.num_blocks - num_free_blocks(self.config, self.num_blocks, progress)
        prob_BL = torch.cat([torch.ones_like(prob_BL[:, :held]), prob_BL[:, held:]], dim=1)
        coin_BL = keyed_random.uniform(history.key_B, "reinforce", self.num_blocks)
        return KeepDecision((coin_BL < prob_BL.detach()).float(), prob_BL)


def bounded(prob_BL: Tensor, bound: float) -> Tensor:
    """a p + (1 - a)(1 - p), so that no decision is ever certain (BlockDrop, CVPR 2018, eq. 6)."""
    return bound * prob_BL + (1 - bound) * (1 - prob_BL)
