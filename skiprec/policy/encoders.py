"""Encoders turn histories into one vector for each row.

A new encoder is one class here and one line in `ENCODERS`.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from skiprec.attention import FeedForward, SelfAttention
from skiprec.layers import CausalConv, MaskedNormRelu


def pool_history(x_TBD: Tensor, is_item_TB1: Tensor) -> Tensor:
    """`[B, D]`: the mean over real positions; zeros for a row without history."""
    count_B1 = is_item_TB1.sum(dim=0).clamp(min=1)
    return (x_TBD * is_item_TB1).sum(dim=0) / count_B1


class ConvEncoder(nn.Module):
    """Two light residual blocks with one convolution each; the dilations are 1 and 2."""

    def __init__(self, width: int):
        super().__init__()
        self.convs = nn.ModuleList(CausalConv(width, dilation) for dilation in (1, 2))
        self.norms = nn.ModuleList(MaskedNormRelu(width) for _ in range(2))

    def reset_parameters(self, generator: torch.Generator) -> None:
        """Draws the convolutions."""
        for conv in self.convs:
            conv.reset_parameters(generator)  # type: ignore[operator]

    def forward(self, x_TBD: Tensor, is_item_TB1: Tensor) -> Tensor:
        """`[B, D]`: the vector of each row."""
        for conv, norm in zip(self.convs, self.norms, strict=True):
            x_TBD = x_TBD + norm(conv(x_TBD), is_item_TB1)
        return pool_history(x_TBD, is_item_TB1)


class GruEncoder(nn.Module):
    """One GRU layer, pooled as in the paper: the mean of its states at real positions.

    It has no biases, so the state stays zero through the padding on the left. The first item
    therefore starts from the same state as in a window without padding.
    """

    def __init__(self, width: int):
        super().__init__()
        self.gru = nn.GRU(width, width, bias=False)

    def reset_parameters(self, generator: torch.Generator) -> None:
        """Uniform within 1 / sqrt(D), the default of torch for a GRU."""
        bound = self.gru.hidden_size**-0.5
        for weight in self.gru.parameters():
            nn.init.uniform_(weight, -bound, bound, generator=generator)

    def forward(self, x_TBD: Tensor, is_item_TB1: Tensor) -> Tensor:
        """`[B, D]`: the vector of each row."""
        state_TBD, _ = self.gru(x_TBD)
        return pool_history(state_TBD, is_item_TB1)


class AttentionEncoder(nn.Module):
    """One pre-norm block with one head; every real position attends to all real positions.

    Attention and a mean ignore the order of items. One learned vector, instead of a table of
    positions, marks how recent an item is. Its weight is 1 at the last position, then 1/2, 1/3, ….
    """

    def __init__(self, width: int):
        super().__init__()
        self.recent_D = nn.Parameter(torch.empty(width))
        self.norm_1 = nn.LayerNorm(width)
        self.attention = SelfAttention(width, num_heads=1, is_causal=False)
        self.norm_2 = nn.LayerNorm(width)
        self.feed_forward = FeedForward(width)

    def reset_parameters(self, generator: torch.Generator) -> None:
        """Draws the mark like an item vector, and the matrices."""
        nn.init.trunc_normal_(self.recent_D, std=0.02, a=-0.04, b=0.04, generator=generator)
        self.attention.reset_parameters(generator)
        self.feed_forward.reset_parameters(generator)

    def forward(self, x_TBD: Tensor, is_item_TB1: Tensor) -> Tensor:
        """`[B, D]`: the vector of each row."""
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
