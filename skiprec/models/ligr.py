"""The block of eSASRec (LiGR; Borisyuk et al., 2024): pre-norm attention and SwiGLU, each gated.

    y = x + sigmoid(x Wg + b) * attention(LN(x)) Wo
    z = y + sigmoid(y Wg + b) * SwiGLU(LN(y));  branch = z - x

The gates read the state before the norm. SwiGLU(n) = (silu(n W1) * (n W2)) W3 is four times as wide
inside and has no biases. The stack drops elements of the whole branch instead of its two parts.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from skiprec.attention import SelfAttention
from skiprec.config.model import ModelConfig
from skiprec.models.sasrec import checked_heads

INNER = 4  # times the width


class Gate(nn.Module):
    """sigmoid(x W + b)."""

    def __init__(self, width: int):
        super().__init__()
        self.weight_DE = nn.Parameter(torch.empty(width, width))
        self.bias_E = nn.Parameter(torch.zeros(width))

    def reset_parameters(self, generator: torch.Generator) -> None:
        """Xavier; the bias starts at 0, so that half of a branch passes."""
        nn.init.xavier_uniform_(self.weight_DE, generator=generator)

    def forward(self, x_ND: Tensor) -> Tensor:
        """`[N, D]`, between 0 and 1."""
        gate_ND: Tensor = torch.addmm(self.bias_E, x_ND, self.weight_DE).sigmoid()
        return gate_ND


class LigrBlock(nn.Module):
    """The residual branch; the stack adds it to the block's input."""

    def __init__(self, width: int, num_heads: int):
        super().__init__()
        self.norm_1 = nn.LayerNorm(width)
        self.attention = SelfAttention(width, num_heads, is_causal=True)
        self.out_DE = nn.Parameter(torch.empty(width, width))
        self.gate_1 = Gate(width)
        self.norm_2 = nn.LayerNorm(width)
        self.inner_DE = nn.Parameter(torch.empty(width, 2 * INNER * width))  # W1, W2
        self.outer_DE = nn.Parameter(torch.empty(INNER * width, width))
        self.gate_2 = Gate(width)

    def reset_parameters(self, generator: torch.Generator) -> None:
        """Draws the matrices by Xavier; the norms keep the values of the constructor."""
        self.attention.reset_parameters(generator)
        for weight_DE in (self.out_DE, self.inner_DE, self.outer_DE):
            nn.init.xavier_uniform_(weight_DE, generator=generator)
        self.gate_1.reset_parameters(generator)
        self.gate_2.reset_parameters(generator)

    def forward(self, x_TBD: Tensor, is_item_TB1: Tensor) -> Tensor:
        """`branch_TBD`, zero at padding. No real query sees padding, so one mask is enough."""
        T, B, D = x_TBD.shape
        x_ND = x_TBD.reshape(T * B, D)
        attended_ND = self.attention(self.norm_1(x_TBD), is_item_TB1).view(T * B, D) @ self.out_DE
        first_ND = self.gate_1(x_ND) * attended_ND
        y_ND = x_ND + first_ND
        one_NE, two_NE = (self.norm_2(y_ND) @ self.inner_DE).chunk(2, dim=1)
        second_ND = self.gate_2(y_ND) * ((F.silu(one_NE) * two_NE) @ self.outer_DE)
        branch_TBD: Tensor = (first_ND + second_ND).view(T, B, D) * is_item_TB1
        return branch_TBD


def ligr_blocks(config: ModelConfig) -> list[nn.Module]:
    """The blocks of eSASRec."""
    heads = checked_heads(config)
    return [LigrBlock(config.width, heads) for _ in range(config.num_blocks)]
