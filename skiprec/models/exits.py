"""Exits: after some depths a row may leave the network, and the one head scores what it has read.

So one network serves at several depths. `skiprec/training/exits.py` has the loss that trains every
exit.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class ExitNorms(nn.Module):
    """A LayerNorm for each exit: a row is scored by its state after the norm of its own exit.

    `depth_M` holds the depths of the exits, rising; the last is all blocks.
    """

    depth_M: Tensor

    def __init__(self, depths: tuple[int, ...], width: int):
        super().__init__()
        self.depths = depths
        self.weight_MD = nn.Parameter(torch.ones(len(depths), width))
        self.bias_MD = nn.Parameter(torch.zeros(len(depths), width))
        self.register_buffer("depth_M", torch.tensor(depths), persistent=False)

    def number_of(self, depth: int) -> int:
        """The number of the exit at this depth, or the next; nothing waits for the device."""
        return sum(depth > other for other in self.depths)

    def exit_of(self, depth_N: Tensor) -> Tensor:
        """As `number_of`, for rows that run so many blocks."""
        # Not searchsorted, which the exporter to ONNX does not know.
        return (depth_N.unsqueeze(-1) > self.depth_M).sum(-1)

    def forward(self, x_ND: Tensor, exit_N: Tensor | int) -> Tensor:
        """The states, each after the norm of its exit.

        Args:
            x_ND: states, with any dimensions in front of D.
            exit_N: numbers of exits, whose dimensions broadcast to those in front of D; or of one.
        """
        x_ND = F.layer_norm(x_ND, x_ND.shape[-1:])
        return torch.addcmul(self.bias_MD[exit_N], x_ND, self.weight_MD[exit_N])


class ExitReadouts(ExitNorms):
    """Exits that add up: a row is scored by the sum of the readouts of its exit and those before.

    The readout of exit m is `norm_m(x + relu(normed(x) U_m) V_m)`, where x is the state there. So a
    deeper exit corrects what the exits before it say, and the state need not say it all again.
    `hidden` is the number of channels of the hidden layers.
    """

    def __init__(self, depths: tuple[int, ...], width: int, hidden: int):
        super().__init__(depths, width)
        self.up_MDH = nn.Parameter(torch.empty(len(depths), width, hidden))
        self.down_MHD = nn.Parameter(torch.empty(len(depths), hidden, width))

    def reset_parameters(self, generator: torch.Generator) -> None:
        """Draws the first layers; the second ones start at 0, so a readout starts as a norm."""
        nn.init.normal_(self.up_MDH, std=self.up_MDH.shape[1] ** -0.5, generator=generator)
        nn.init.zeros_(self.down_MHD)

    def forward(self, x_ND: Tensor, exit_N: Tensor | int) -> Tensor:
        """The readout of one exit.

        Args:
            x_ND: states there, with any dimensions in front of D.
            exit_N: the number of the exit; one for all states.
        """
        hidden_NH = F.relu(F.layer_norm(x_ND, x_ND.shape[-1:]) @ self.up_MDH[exit_N])
        return super().forward(x_ND + hidden_NH @ self.down_MHD[exit_N], exit_N)


def depth_of(keep_NBL: Tensor) -> Tensor:
    """`[N, B]`: the depth at which rows leave, which is behind the last block that they keep."""
    place_L = torch.arange(1, keep_NBL.shape[-1] + 1, device=keep_NBL.device)
    return ((keep_NBL != 0) * place_L).amax(-1)
