"""NextItNet and NextItNet+: blocks of dilated causal convolutions (Yuan et al., WSDM 2019).

    h = relu(LN(conv(x, dilation=d)));  h = relu(LN(conv(h, dilation=2 d)));  branch = lambda * h

lambda is 1 in NextItNet. In NextItNet+ each block learns its own lambda, first 0 (ReZero).
"""

import torch
from torch import Tensor, nn

from skiprec.config.model import ModelConfig
from skiprec.layers import CausalConv, MaskedNormRelu

DILATIONS = (1, 4)


class NextItNetBlock(nn.Module):
    """The residual branch; the stack adds it to the block's input."""

    def __init__(self, width: int, dilation: int, learn_scale: bool):
        super().__init__()
        self.conv_1 = CausalConv(width, dilation)
        self.norm_1 = MaskedNormRelu(width)
        self.conv_2 = CausalConv(width, 2 * dilation)
        self.norm_2 = MaskedNormRelu(width)
        # Shape (1,), not (): DeepSpeed 0.19 fails to broadcast 0-dimensional parameters.
        self.scale = nn.Parameter(torch.zeros(1)) if learn_scale else None

    def reset_parameters(self, generator: torch.Generator) -> None:
        """Draws the convolutions; the norms and the scale keep the values of the constructor."""
        self.conv_1.reset_parameters(generator)
        self.conv_2.reset_parameters(generator)

    def forward(self, x_TBD: Tensor, is_item_TB1: Tensor) -> Tensor:
        """`branch_TBD`, zero at padding, where `x_TBD` must be zero, too."""
        h_TBD: Tensor = self.norm_1(self.conv_1(x_TBD), is_item_TB1)
        h_TBD = self.norm_2(self.conv_2(h_TBD), is_item_TB1)
        return h_TBD if self.scale is None else self.scale * h_TBD


def nextitnet_blocks(config: ModelConfig) -> list[nn.Module]:
    """The blocks of NextItNet: the residual scale is 1."""
    return _blocks(config, learn_scale=False)


def nextitnet_plus_blocks(config: ModelConfig) -> list[nn.Module]:
    """The blocks of NextItNet+: each learns its residual scale, which starts at 0."""
    return _blocks(config, learn_scale=True)


def dilation_cycle(config: ModelConfig) -> tuple[int, ...]:
    """The dilations of the first convolution, over blocks; the second has twice each dilation."""
    return config.dilations or DILATIONS


def _blocks(config: ModelConfig, learn_scale: bool) -> list[nn.Module]:
    cycle = dilation_cycle(config)
    return [
        NextItNetBlock(config.width, cycle[index % len(cycle)], learn_scale)
        for index in range(config.num_blocks)
    ]
