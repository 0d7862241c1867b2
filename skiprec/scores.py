"""What a head offers to a loss or a ranking: the scores of items, in the pieces that each needs."""

from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor


class Scores(Protocol):
    """The scores of all items for hidden vectors `x_ND`; an item's column is its id - 1."""

    @property
    def num_items(self) -> int:
        """V."""
        ...

    def columns(self, x_ND: Tensor, start: int, stop: int) -> Tensor:
        """`[N, stop - start]`, float32: the items with ids start + 1 to stop."""
        ...

    def own(self, x_ND: Tensor, item_N: Tensor) -> Tensor:
        """`[N]`: one item for each vector."""
        ...

    def shared(self, x_ND: Tensor, item_S: Tensor) -> Tensor:
        """`[N, S]`: the same items for all vectors."""
        ...


@dataclass(frozen=True)
class DotProduct:
    """x W + b, the scores of all networks but NFM."""

    weight_VD: Tensor
    bias_V: Tensor

    @property
    def num_items(self) -> int:
        """V."""
        return len(self.weight_VD)

    def columns(self, x_ND: Tensor, start: int, stop: int) -> Tensor:
        """See `Scores`."""
        bias_I, weight_ID = self.bias_V[start:stop].float(), self.weight_VD[start:stop].float()
        return torch.addmm(bias_I, x_ND, weight_ID.t())

    def own(self, x_ND: Tensor, item_N: Tensor) -> Tensor:
        """See `Scores`."""
        return (x_ND * self.weight_VD[item_N - 1]).sum(-1) + self.bias_V[item_N - 1]

    def shared(self, x_ND: Tensor, item_S: Tensor) -> Tensor:
        """See `Scores`."""
        return F.linear(x_ND, self.weight_VD[item_S - 1], self.bias_V[item_S - 1])
