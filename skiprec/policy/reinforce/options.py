"""Options of SkipRec-RL."""

import math
from typing import Literal

from pydantic import Field

from skiprec.policy.section import LearnedSection


class Options(LearnedSection):
    """SkipRec-RL: the policy learns by self-critical reinforcement learning.

    The loss is L_CE + beta * L_RL. There is no target rate: `gamma` sets how much is kept.
    """

    kind: Literal["reinforce"] = "reinforce"
    """SkipRec-RL."""
    initial_keep_prob: float = Field(0.85, gt=0, lt=1)
    """P(keep) of every block before training."""
    beta: float = Field(1.0, gt=0)
    """Weight of the reinforcement loss L_RL."""
    gamma: float = Field(0.5, ge=0)
    """What a miss costs. Raise it if too little is kept."""
    reward: Literal["slide", "released_code"] = "slide"
    """Reward of a hit. `slide`: 1 - (kept / N)^2, so skipping pays. `released_code`: (kept / N)^2,
    so keeping pays, as in the authors' code."""
    reward_cut: int = Field(5, ge=1)
    """A hit is a target among this many best items at the last position."""
    prob_bound: float = Field(0.8, gt=0.5, le=1)
    """Bound a on the sampling probability, a p + (1 - a)(1 - p) (BlockDrop). 1: no bound."""
    entropy_weight: float | None = Field(None, gt=0)
    """Weight of a bonus for the entropy of each block's decision. None: no bonus."""
    free_blocks_frac: float | None = Field(None, gt=0, le=1)
    """Share of the training in which blocks become free to be skipped, from the last to the first.
    The other blocks are kept until then. None: all are free at once."""

    def num_free_blocks(self, num_blocks: int, progress: float) -> int:
        """How many blocks, from the last one on, may be skipped by now (BlockDrop's curriculum)."""
        if self.free_blocks_frac is None:
            return num_blocks
        return max(1, min(num_blocks, math.ceil(num_blocks * progress / self.free_blocks_frac)))
