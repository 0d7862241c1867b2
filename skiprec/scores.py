"""The interface between heads and their users: a loss or a ranking asks for the scores it needs."""

from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable


class _Rows(torch.autograd.Function):
    """`table[row_N]` with a sparse gradient. `F.embedding` has one, too, but not for a vector."""

    @staticmethod
    def forward(ctx: FunctionCtx, table: Tensor, row_N: Tensor) -> Tensor:
        ctx.save_for_backward(row_N)
        ctx.shape = table.shape  # type: ignore[attr-defined]
        return table[row_N]

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, grad: Tensor) -> tuple[Tensor, None]:
        (row_N,) = ctx.saved_tensors  # type: ignore[attr-defined]
        shape = ctx.shape  # type: ignore[attr-defined]
        return torch.sparse_coo_tensor(row_N[None], grad, shape, check_invariants=False), None


def rows_of(table: Tensor, row_N: Tensor, sparse: bool) -> Tensor:
    """`table[row_N]`. If `sparse`, its gradient is a list of rows instead of a whole table."""
    if not sparse:
        return table[row_N]
    out: Tensor = _Rows.apply(table, row_N)  # type: ignore[no-untyped-call]
    return out


class Scores(Protocol):
    """The scores of items for hidden vectors `x_ND`. The column of an item is its id - 1."""

    @property
    def num_items(self) -> int:
        """V, the number of items of the catalogue."""
        ...

    def columns(self, x_ND: Tensor, start: int, stop: int) -> Tensor:
        """`[N, stop - start]`, float32: scores of the items with ids start + 1 to stop."""
        ...

    def own(self, x_ND: Tensor, item_N: Tensor) -> Tensor:
        """`[N]`: the score of one item for each vector."""
        ...

    def shared(self, x_ND: Tensor, item_S: Tensor) -> Tensor:
        """`[N, S]`: scores of the same S items for every vector."""
        ...


@dataclass(frozen=True)
class DotProduct:
    """x W + b, the scores of every network but NFM. If `sparse`, gradients of W and b list rows."""

    weight_VD: Tensor
    bias_V: Tensor
    sparse: bool = False

    @property
    def num_items(self) -> int:
        """V, the number of items of the catalogue."""
        return len(self.weight_VD)

    def columns(self, x_ND: Tensor, start: int, stop: int) -> Tensor:
        """See `Scores`."""
        bias_I, weight_ID = self.bias_V[start:stop].float(), self.weight_VD[start:stop].float()
        return torch.addmm(bias_I, x_ND, weight_ID.t())

    def own(self, x_ND: Tensor, item_N: Tensor) -> Tensor:
        """See `Scores`."""
        weight_ND = rows_of(self.weight_VD, item_N - 1, self.sparse)
        return (x_ND * weight_ND).sum(-1) + rows_of(self.bias_V, item_N - 1, self.sparse)

    def shared(self, x_ND: Tensor, item_S: Tensor) -> Tensor:
        """See `Scores`."""
        weight_SD = rows_of(self.weight_VD, item_S - 1, self.sparse)
        return F.linear(x_ND, weight_SD, rows_of(self.bias_V, item_S - 1, self.sparse))
