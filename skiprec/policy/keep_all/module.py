"""The control that keeps every block."""

import torch

from skiprec.policy.base import PolicyModule
from skiprec.policy.keep_all.options import Options
from skiprec.types import History, KeepDecision


class Policy(PolicyModule):
    """Keeps every block of every row, in training and in serving."""

    def __init__(self, options: Options, num_items: int, backbone_width: int, num_blocks: int):
        super().__init__()
        self.num_blocks = num_blocks

    def forward(self, history: History, progress: float | None) -> KeepDecision:
        """See `PolicyModule`. `keep_BL` is 1.0 everywhere."""
        key_B = history.key_B
        return KeepDecision(torch.ones(len(key_B), self.num_blocks, device=key_B.device), None)
