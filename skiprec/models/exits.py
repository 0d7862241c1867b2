"""Exits: after some depths the state passes a norm of its own and is scored by the one head.

So one network serves at several depths: a row that runs the first n blocks leaves at the exit of
depth n. `skiprec/training/exits.py` has the loss that trains every exit.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class ExitNorms(nn.Module):
    """A LayerNorm for each exit. `depth_M` holds their depths, rising; the last is all blocks.

    Args:
        has_maps: whether each exit also adds a linear map of its normalised state. The state may
            then serve the later blocks, and need not be near the item vectors itself.
    """

    depth_M: Tensor

    def __init__(self, depths: tuple[int, ...], width: int, has_maps: bool = False):
        super().__init__()
        self.weight_MD = nn.Parameter(torch.ones(len(depths), width))
        self.bias_MD = nn.Parameter(torch.zeros(len(depths), width))
        self.map_MDE = nn.Parameter(torch.zeros(len(depths), width, width)) if has_maps else None
        self.register_buffer("depth_M", torch.tensor(depths), persistent=False)

    def exit_of(self, depth_N: Tensor) -> Tensor:
        """The number of the exit for rows that run this many blocks: at this depth, or the next."""
        # Not searchsorted, which the exporter to ONNX does not know.
        return (depth_N.unsqueeze(-1) > self.depth_M).sum(-1)

    def forward(self, x_ND: Tensor, exit_N: Tensor) -> Tensor:
        """The states, each after the norm of its exit.

        Args:
            x_ND: states, with any dimensions in front of D.
            exit_N: numbers of exits; their dimensions broadcast to those in front of D.
        """
        x_ND = F.layer_norm(x_ND, x_ND.shape[-1:])
        x_ND = torch.addcmul(self.bias_MD[exit_N], x_ND, self.weight_MD[exit_N])
        if self.map_MDE is None:
            return x_ND
        return x_ND + self._mapped(x_ND, exit_N)

    def _mapped(self, x_ND: Tensor, exit_N: Tensor) -> Tensor:
        assert self.map_MDE is not None
        if exit_N.dim() == 0:
            return x_ND @ self.map_MDE[exit_N]
        # One exit for all states of an entry of the first dimension.
        if exit_N.dim() == x_ND.dim() - 1 and exit_N.numel() == len(x_ND) == len(exit_N):
            flat_MND = x_ND.flatten(1, -2) if x_ND.dim() > 2 else x_ND[:, None]
            return torch.bmm(flat_MND, self.map_MDE[exit_N.flatten()]).view_as(x_ND)
        mapped_ND = torch.zeros_like(x_ND)
        exit_N = exit_N.expand(x_ND.shape[:-1])
        for number, map_DE in enumerate(self.map_MDE):
            is_own_N = exit_N == number
            mapped_ND[is_own_N] = x_ND[is_own_N] @ map_DE
        return mapped_ND


def depth_of(keep_NBL: Tensor) -> Tensor:
    """`[N, B]`: the depth at which rows leave, which is behind the last block that they keep."""
    place_L = torch.arange(1, keep_NBL.shape[-1] + 1, device=keep_NBL.device)
    return ((keep_NBL != 0) * place_L).amax(-1)
