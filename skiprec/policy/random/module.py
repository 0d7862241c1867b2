"""The control that keeps blocks at random."""

from skiprec import keyed_random
from skiprec.policy.base import PolicyModule
from skiprec.policy.random.options import Options
from skiprec.types import History, KeepDecision


class Policy(PolicyModule):
    """Keeps each block of each row with probability `keep_frac`, in training and in serving."""

    def __init__(self, options: Options, num_items: int, backbone_width: int, num_blocks: int):
        super().__init__()
        self.keep_frac, self.num_blocks = options.keep_frac, num_blocks

    def forward(self, history: History, progress: float | None) -> KeepDecision:
        """See `PolicyModule`. The random numbers are a function of the row's key."""
        coin_BL = keyed_random.uniform(history.key_B, "random-policy", self.num_blocks)
        return KeepDecision((coin_BL < self.keep_frac).float(), None)
