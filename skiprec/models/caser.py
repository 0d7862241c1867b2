"""Caser: convolutions over the last items, seen as an image (Tang & Wang, WSDM 2018).

    E = the last L items as L rows of D channels
    horizontal, for each height h from 1 to L: max over positions of relu(<F_h, h rows of E> + b)
    vertical: sum over rows of f_row * E_row
    out = relu(W [horizontal, vertical] + b)

The paper adds a vector of the user before the output layer. We leave it out, because with the split
`by_user` we evaluate users who are not in the training data.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from skiprec.config.model import ModelConfig

# The authors' values for MovieLens.
LENGTH = 5
NUM_HORIZONTAL = 16
NUM_VERTICAL = 4


class HorizontalFilters(nn.Module):
    """Filters over `height` items and all channels, each with its maximum over the last items."""

    def __init__(self, width: int, height: int):
        super().__init__()
        self.height = height
        # One row for each pair (channel, item under the filter).
        self.weight_CF = nn.Parameter(torch.empty(width * height, NUM_HORIZONTAL))
        self.bias_F = nn.Parameter(torch.zeros(NUM_HORIZONTAL))

    def reset_parameters(self, generator: torch.Generator) -> None:
        """Draws the filters, Glorot uniform."""
        nn.init.xavier_uniform_(self.weight_CF, generator=generator)

    def forward(self, x_PBD: Tensor) -> Tensor:
        """`[T, B, F]`, from `x_PBD` with P = T + LENGTH - 1 positions.

        The value of a filter that ends at some position is the same in every image that contains
        it. Each value is therefore computed once, and each image takes the maximum over the
        LENGTH - height + 1 values that it contains.
        """
        rows_PBC = x_PBD.unfold(0, self.height, 1).flatten(2)
        value_PBF = torch.relu(rows_PBC @ self.weight_CF + self.bias_F)
        return value_PBF.unfold(0, LENGTH - self.height + 1, 1).amax(-1)


class CaserEncoder(nn.Module):
    """At each position, an image of the last `LENGTH` items; missing items are zero.

    The paper has dropout of 0.5 between the convolutions and the last product. We apply
    `model.dropout` to the items and to the output instead, with masks from the rows' keys.
    """

    def __init__(self, width: int):
        super().__init__()
        self.horizontal = nn.ModuleList(
            HorizontalFilters(width, height) for height in range(1, LENGTH + 1)
        )
        # Vertical filters have no bias, because it would only add a constant to `bias_D`.
        self.vertical_LF = nn.Parameter(torch.empty(LENGTH, NUM_VERTICAL))
        num_values = LENGTH * NUM_HORIZONTAL + width * NUM_VERTICAL
        self.weight_CD = nn.Parameter(torch.empty(num_values, width))
        self.bias_D = nn.Parameter(torch.zeros(width))

    def reset_parameters(self, generator: torch.Generator) -> None:
        """Draws the filters and the last product, Glorot uniform."""
        for filters in self.horizontal:
            filters.reset_parameters(generator)  # type: ignore[operator]
        nn.init.xavier_uniform_(self.vertical_LF, generator=generator)
        nn.init.xavier_uniform_(self.weight_CD, generator=generator)

    def forward(self, x_TBD: Tensor, is_item_TB1: Tensor) -> Tensor:
        """`[T, B, D]`, zero at padding."""
        x_PBD = F.pad(x_TBD, (0, 0, 0, 0, LENGTH - 1, 0))
        image_TBDP = x_PBD.unfold(0, LENGTH, 1)
        values = [filters(x_PBD) for filters in self.horizontal]
        values.append((image_TBDP @ self.vertical_LF).flatten(2))
        out_TBD = torch.relu(torch.cat(values, dim=-1) @ self.weight_CD + self.bias_D)
        return out_TBD * is_item_TB1


def caser_encoder(config: ModelConfig) -> list[nn.Module]:
    """A list of one module: one layer of filters.

    Raises:
        ValueError: `config.num_blocks` is not 1.
    """
    if config.num_blocks != 1:
        raise ValueError(
            f"model.num_blocks={config.num_blocks} has no effect with model.backbone='caser', "
            "which has one layer of filters; set it to 1"
        )
    return [CaserEncoder(config.width)]
