"""Options of SkipRec-RL."""

import math
from typing import Literal

from pydantic import Field

from skiprec.policy.section import LearnedSection


class Options(LearnedSection):
    """SkipRec-RL: the policy learns by self-critical reinforcement learning.

    The loss is L_CE + beta * L_RL. There is no target share: `gamma` decides how much is kept.
    """

    kind: Literal["reinforce"] = "reinforce"
    """SkipRec-RL: learn decisions by self-critical reinforcement learning."""
    initial_keep_prob: float = Field(0.85, gt=0, lt=1)
    """Probability of keeping a block before training."""
    beta: float = Field(1.0, gt=0)
    """Weight of the reinforcement loss L_RL."""
    gamma: float = Field(0.5, ge=0)
    """Penalty of a miss: its reward is -gamma. A larger value makes the policy keep more blocks."""
    reward: Literal["slide", "released_code"] = "slide"
    """Reward of a hit with k of N blocks kept. `slide`: 1 - (k / N)^2, which rewards skipping.
    `released_code`: (k / N)^2 as in the authors' code, which rewards keeping."""
    reward_cut: int = Field(5, ge=1)
    """Largest rank of the target at the last position that counts as a hit."""
    prob_bound: float = Field(0.8, gt=0.5, le=1)
    """Bound a of the sampling probability a p + (1 - a)(1 - p) (BlockDrop). 1: no bound."""
    entropy_weight: float | None = Field(None, gt=0)
    """Weight of a bonus for the entropy of each block's decision. None: no bonus."""
    free_blocks_frac: float | None = Field(None, gt=0, le=1)
    """Share of the training in which blocks become free to be skipped, from the last block to the
    first. Other blocks are always kept. None: every block is free from the first step."""

    def num_free_blocks(self, num_blocks: int, progress: float) -> int:
        """The number of last blocks that are free to be skipped (the curriculum of BlockDrop)."""
        if self.free_blocks_frac is None:
            return num_blocks
        return max(1, min(num_blocks, math.ceil(num_blocks * progress / self.free_blocks_frac)))
