"""Policies that learn nothing: what a learned policy has to beat. Progress does not matter."""

import torch
from torch import Tensor, nn

from skiprec import keyed_random
from skiprec.types import History, KeepDecision


class RandomPolicy(nn.Module):
    """Keeps each block of each row with probability `keep_frac`, by the row's key."""

    def __init__(self, keep_frac: float, num_blocks: int):
        super().__init__()
        self.keep_frac, self.num_blocks = keep_frac, num_blocks

    def reset_parameters(self, generator: torch.Generator) -> None:
        """Nothing to draw."""

    def forward(self, history: History, progress: float | None) -> KeepDecision:
        """Independent coins, the same for the same key."""
        coin_BL = keyed_random.uniform(history.key_B, "random-policy", self.num_blocks)
        return KeepDecision((coin_BL < self.keep_frac).float(), None)


class FixedPolicy(nn.Module):
    """One set of blocks for everyone; all of them is `keep_all`."""

    keep_L: Tensor

    def __init__(self, keep_blocks: tuple[int, ...], num_blocks: int):
        super().__init__()
        outside = [index for index in keep_blocks if not 0 <= index < num_blocks]
        if outside:
            raise ValueError(
                f"policy.keep_blocks names {outside}, but the backbone has blocks 0 to "
                f"{num_blocks - 1}"
            )
        keep_L = torch.zeros(num_blocks)
        keep_L[list(keep_blocks)] = 1.0
        self.register_buffer("keep_L", keep_L, persistent=False)

    def reset_parameters(self, generator: torch.Generator) -> None:
        """Nothing to draw."""

    def forward(self, history: History, progress: float | None) -> KeepDecision:
        """The same decision for every row."""
        return KeepDecision(self.keep_L.float().expand(len(history.key_B), -1), None)
