"""SASRec+ (Kang & McAuley, ICDM 2018): causal self-attention blocks with ReZero scales.

    a = s1 * attention(LN(x));  f = s2 * feed_forward(LN(x + a));  branch = a + f

s1 and s2 are learnable scalars that start at 0. In "sasrec_plus_authors", the form of the released
SkipRec code, the residual starts from the normalised input instead. Such a block therefore
normalises its input twice even where both scales are 0:

    y = LN(x) + s1 * attention(LN(x));  z = LN(y) + s2 * feed_forward(LN(y));  branch = z - x

There is no dropout inside a block. The stack drops elements of the branch, with a mask from the
row's key. The dropout of torch draws from a generator, so that the noise of a row would depend on
the other rows of its batch. In the authors' form our noise is stronger than theirs, because the
branch to which it applies also subtracts x.
"""

import torch
from torch import Tensor, nn

from skiprec.attention import FeedForward, SelfAttention
from skiprec.config.model import ModelConfig

NUM_HEADS = 2
MAX_POSITIONS = 200


class SasRecBlock(nn.Module):
    """The residual branch; the stack adds it to the block's input."""

    def __init__(self, width: int, num_heads: int):
        super().__init__()
        # Shape (1,), not (): DeepSpeed 0.19 fails to broadcast 0-dimensional parameters.
        self.norm_1 = nn.LayerNorm(width)
        self.attention = SelfAttention(width, num_heads, is_causal=True)
        self.scale_1 = nn.Parameter(torch.zeros(1))
        self.norm_2 = nn.LayerNorm(width)
        self.feed_forward = FeedForward(width)
        self.scale_2 = nn.Parameter(torch.zeros(1))

    def reset_parameters(self, generator: torch.Generator) -> None:
        """Draws the matrices; the norms and scales keep the values of the constructor."""
        self.attention.reset_parameters(generator)
        self.feed_forward.reset_parameters(generator)

    def forward(self, x_TBD: Tensor, is_item_TB1: Tensor) -> Tensor:
        """`branch_TBD`, zero at padding. No real query sees padding, so one mask is enough."""
        a_TBD = self.scale_1 * self.attention(self.norm_1(x_TBD), is_item_TB1)
        f_TBD = self.feed_forward(self.norm_2(x_TBD + a_TBD))
        return torch.addcmul(a_TBD, self.scale_2, f_TBD).mul_(is_item_TB1)


class AuthorsSasRecBlock(SasRecBlock):
    """The block of the released code: its residual starts from the normalised input."""

    def forward(self, x_TBD: Tensor, is_item_TB1: Tensor) -> Tensor:
        """`branch_TBD`, zero at padding, where `x_TBD` must be zero, too."""
        normed_x_TBD = self.norm_1(x_TBD)
        y_TBD = torch.addcmul(normed_x_TBD, self.scale_1, self.attention(normed_x_TBD, is_item_TB1))
        normed_y_TBD = self.norm_2(y_TBD)
        z_TBD = torch.addcmul(normed_y_TBD, self.scale_2, self.feed_forward(normed_y_TBD))
        return (z_TBD - x_TBD).mul_(is_item_TB1)


class EndPositions(nn.Module):
    """Adds one learned vector for each position, counted from the end of the window.

    Padding on the left therefore shifts no position. The last row of the table belongs to the last
    position.
    """

    def __init__(self, width: int, max_positions: int):
        super().__init__()
        self.max_positions = max_positions
        self.table_PD = nn.Parameter(torch.empty(max_positions, width))

    def reset_parameters(self, generator: torch.Generator) -> None:
        """Truncated normal with std 0.02, as for the item vectors."""
        nn.init.trunc_normal_(self.table_PD, std=0.02, a=-0.04, b=0.04, generator=generator)

    def forward(self, x_TBD: Tensor, is_item_TB1: Tensor) -> Tensor:
        """`[T, B, D]`; padding stays zero.

        Raises:
            ValueError: the input has more positions than the table.
        """
        num_positions = len(x_TBD)
        if num_positions > self.max_positions:
            raise ValueError(
                f"expected at most model.max_positions={self.max_positions} inputs in a row, found "
                f"{num_positions}; set model.max_positions={num_positions} or more"
            )
        table_T1D = self.table_PD[self.max_positions - num_positions :, None]
        return torch.addcmul(x_TBD, is_item_TB1, table_T1D)


def end_positions(config: ModelConfig) -> nn.Module:
    """A table of `config.max_positions` positions, by default `MAX_POSITIONS`."""
    return EndPositions(config.width, config.max_positions or MAX_POSITIONS)


def sasrec_plus_blocks(config: ModelConfig) -> list[nn.Module]:
    """The plain form: each block starts as the identity."""
    heads = checked_heads(config)
    return [SasRecBlock(config.width, heads) for _ in range(config.num_blocks)]


def sasrec_plus_authors_blocks(config: ModelConfig) -> list[nn.Module]:
    """The blocks of the released code."""
    heads = checked_heads(config)
    return [AuthorsSasRecBlock(config.width, heads) for _ in range(config.num_blocks)]


def num_heads(config: ModelConfig) -> int:
    """The number of heads of each block, by default `NUM_HEADS`."""
    return config.num_heads or NUM_HEADS


def checked_heads(config: ModelConfig) -> int:
    """The number of heads of each block.

    Raises:
        ValueError: the width does not divide into so many.
    """
    heads = num_heads(config)
    if config.width % heads:
        raise ValueError(
            f"model.width={config.width} does not divide into {heads} heads of equal width; "
            "change model.width or model.num_heads"
        )
    return heads
