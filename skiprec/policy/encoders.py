"""From a history to one vector a row. An encoder is one class here and one line in `ENCODERS`."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from skiprec.layers import CausalConv, MaskedNormRelu


def pool_history(x_TBD: Tensor, is_item_TB1: Tensor) -> Tensor:
    """Mean over real positions; a row with no history pools to zeros."""
    count_B1 = is_item_TB1.sum(dim=0).clamp(min=1)
    return (x_TBD * is_item_TB1).sum(dim=0) / count_B1


class ConvEncoder(nn.Module):
    """Two light residual blocks of one convolution each, dilations 1 and 2."""

    def __init__(self, width: int):
        super().__init__()
        self.convs = nn.ModuleList(CausalConv(width, dilation) for dilation in (1, 2))
        self.norms = nn.ModuleList(MaskedNormRelu(width) for _ in range(2))

    def reset_parameters(self, generator: torch.Generator) -> None:
        """Draws the convolutions."""
        for conv in self.convs:
            conv.reset_parameters(generator)  # type: ignore[operator]

    def forward(self, x_TBD: Tensor, is_item_TB1: Tensor) -> Tensor:
        """`[T, B, D]` to `[B, D]`."""
        for conv, norm in zip(self.convs, self.norms, strict=True):
            x_TBD = x_TBD + norm(conv(x_TBD), is_item_TB1)
        return pool_history(x_TBD, is_item_TB1)


ENCODERS: dict[str, Callable[[int], nn.Module]] = {"conv": ConvEncoder}
