"""From the last hidden state to scores of the catalogue."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from skiprec.scores import DotProduct, Scores


class ItemHead(nn.Module):
    """The output matrix, not tied to the embedding. Row v scores item v + 1.

    `sparse` is as that of `nn.Embedding`: gradients list the rows that were used.
    """

    def __init__(self, num_items: int, width: int):
        super().__init__()
        self.sparse = False
        self.weight_VD = nn.Parameter(torch.empty(num_items, width))
        self.bias_V = nn.Parameter(torch.full((num_items,), 0.1))

    def reset_parameters(self, generator: torch.Generator) -> None:
        """Normal of 0.01 and bias 0.1, as the authors."""
        nn.init.normal_(self.weight_VD, std=0.01, generator=generator)

    def forward(self, x_ND: Tensor, use: Callable[[Tensor, Scores], Any]) -> Any:
        """`use(x_ND, scores)`: a loss, ranks, a top-k list.

        The use happens inside the module's call because ZeRO-3 holds the whole matrix only there.
        """
        return use(x_ND, DotProduct(self.weight_VD, self.bias_V, self.sparse))
