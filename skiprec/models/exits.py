"""Exits: after some depths the state passes a norm of its own and is scored by the one head.

So one network serves at several depths: a row that runs the first n blocks leaves at the exit of
depth n. `skiprec/training/exits.py` has the loss that trains every exit.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class ExitNorms(nn.Module):
    """A LayerNorm for each exit. `depth_M` holds their depths, rising; the last is all blocks."""

    depth_M: Tensor

    def __init__(self, depths: tuple[int, ...], width: int):
        super().__init__()
        self.weight_MD = nn.Parameter(torch.ones(len(depths), width))
        self.bias_MD = nn.Parameter(torch.zeros(len(depths), width))
        self.register_buffer("depth_M", torch.tensor(depths), persistent=False)

    def exit_of(self, depth_N: Tensor) -> Tensor:
        """The number of the exit for rows that run this many blocks: at this depth, or the next."""
        return torch.searchsorted(self.depth_M, depth_N)

    def forward(self, x_ND: Tensor, exit_N: Tensor) -> Tensor:
        """The states, each after the norm of its exit.

        Args:
            x_ND: states, with any dimensions in front of D.
            exit_N: numbers of exits; their dimensions broadcast to those in front of D.
        """
        x_ND = F.layer_norm(x_ND, x_ND.shape[-1:])
        return torch.addcmul(self.bias_MD[exit_N], x_ND, self.weight_MD[exit_N])


def depth_of(keep_NBL: Tensor) -> Tensor:
    """`[N, B]`: the depth at which rows leave, which is behind the last block that they keep."""
    place_L = torch.arange(1, keep_NBL.shape[-1] + 1, device=keep_NBL.device)
    return ((keep_NBL != 0) * place_L).amax(-1)
