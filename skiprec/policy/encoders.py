"""From a history to one vector a row. An encoder is one class here and one line in `ENCODERS`."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from skiprec.attention import FeedForward, SelfAttention
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


class GruEncoder(nn.Module):
    """One GRU layer, pooled as in the paper: the mean of its states at real positions.

    It has no biases, so an input of zero leaves a state of zero at zero: padding on the left leaves
    no trace, and the first item finds the state that it finds in a window without padding.
    """

    def __init__(self, width: int):
        super().__init__()
        self.gru = nn.GRU(width, width, bias=False)

    def reset_parameters(self, generator: torch.Generator) -> None:
        """Uniform within 1 / sqrt(D), as is usual for a GRU."""
        bound = self.gru.hidden_size**-0.5
        for weight in self.gru.parameters():
            nn.init.uniform_(weight, -bound, bound, generator=generator)

    def forward(self, x_TBD: Tensor, is_item_TB1: Tensor) -> Tensor:
        """`[T, B, D]` to `[B, D]`."""
        state_TBD, _ = self.gru(x_TBD)
        return pool_history(state_TBD, is_item_TB1)


class AttentionEncoder(nn.Module):
    """One pre-norm block with one head; every real position sees every other.

    Attention and a mean know no order. Instead of a table of positions, one learned vector marks
    how recent an item is: it is added with weight 1 at the last position, then 1/2, 1/3, ….
    """

    def __init__(self, width: int):
        super().__init__()
        self.recent_D = nn.Parameter(torch.empty(width))
        self.norm_1 = nn.LayerNorm(width)
        self.attention = SelfAttention(width, num_heads=1, is_causal=False)
        self.norm_2 = nn.LayerNorm(width)
        self.feed_forward = FeedForward(width)

    def reset_parameters(self, generator: torch.Generator) -> None:
        """Draws the mark, as an item's vector, and the products."""
        nn.init.trunc_normal_(self.recent_D, std=0.02, a=-0.04, b=0.04, generator=generator)
        self.attention.reset_parameters(generator)
        self.feed_forward.reset_parameters(generator)

    def forward(self, x_TBD: Tensor, is_item_TB1: Tensor) -> Tensor:
        """`[T, B, D]` to `[B, D]`."""
        age_T = torch.arange(len(x_TBD), 0, -1, dtype=x_TBD.dtype, device=x_TBD.device)
        x_TBD = torch.addcdiv(x_TBD, self.recent_D, age_T[:, None, None])
        x_TBD = x_TBD + self.attention(self.norm_1(x_TBD), is_item_TB1)
        x_TBD = x_TBD + self.feed_forward(self.norm_2(x_TBD))
        return pool_history(x_TBD, is_item_TB1)


ENCODERS: dict[str, Callable[[int], nn.Module]] = {
    "conv": ConvEncoder,
    "gru": GruEncoder,
    "attention": AttentionEncoder,
}
