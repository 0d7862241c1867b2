"""The control that keeps one fixed set of blocks."""

import torch
from torch import Tensor

from skiprec.policy.base import PolicyModule
from skiprec.policy.fixed.options import Options
from skiprec.types import History, KeepDecision


class Policy(PolicyModule):
    """Keeps the same set of blocks for every row, in training and in serving."""

    keep_L: Tensor

    def __init__(self, options: Options, num_items: int, backbone_width: int, num_blocks: int):
        super().__init__()
        options.refuse_outside(num_blocks)
        keep_L = torch.zeros(num_blocks)
        keep_L[list(options.keep_blocks)] = 1.0
        self.register_buffer("keep_L", keep_L, persistent=False)

    def forward(self, history: History, progress: float | None) -> KeepDecision:
        """See `PolicyModule`. The decision is the same for every row."""
        return KeepDecision(self.keep_L.float().expand(len(history.key_B), -1), None)
