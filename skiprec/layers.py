"""The layers that backbones and policies share. Sequences are time-major, padding stays zero."""

import torch
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx, once_differentiable

from skiprec import keyed_random
from skiprec.types import PADDING

KERNEL = 3


class ItemEmbedding(nn.Module):
    """One vector an item; padding is exactly zero."""

    def __init__(self, num_items: int, width: int):
        super().__init__()
        self.table = nn.Embedding(num_items + 1, width, padding_idx=PADDING)

    def reset_parameters(self, generator: torch.Generator) -> None:
        """Truncated normal of 0.02, as the authors; row 0 is zero."""
        nn.init.trunc_normal_(self.table.weight, std=0.02, a=-0.04, b=0.04, generator=generator)
        with torch.no_grad():
            self.table.weight[PADDING].zero_()

    def forward(self, item_TB: Tensor) -> Tensor:
        """`[T, B]` item ids to `[T, B, D]`."""
        x_TBD: Tensor = self.table(item_TB)
        return x_TBD


class KeyedDropout(nn.Module):
    """Dropout whose mask is a function of the row's key; the identity in evaluation."""

    def __init__(self, rate: float, stream: str):
        super().__init__()
        self.rate, self.stream = rate, stream

    def forward(self, x_TBD: Tensor, key_B: Tensor) -> Tensor:
        """`[T, B, D]` to the same shape."""
        if not self.training or self.rate == 0:
            return x_TBD
        return keyed_random.dropout(x_TBD, key_B, self.stream, self.rate)


def shifted_products(x_TBD: Tensor, weight_KDE: Tensor, bias_E: Tensor, dilation: int) -> Tensor:
    """Causal convolution as products of contiguous shifted views; nothing is padded or copied.

    out[t] = bias + sum_k x[t - k * dilation] @ weight[K - 1 - k]. A tap that lies wholly before the
    window costs nothing, which is a fifth of the products at T = 19 and dilations 1, 2, 4, 8.
    """
    T, B, D = x_TBD.shape
    newest = KERNEL - 1
    x_TBD = x_TBD.contiguous()
    out_ND = torch.addmm(bias_E, x_TBD.view(T * B, D), weight_KDE[newest])
    for k in range(1, KERNEL):
        late = T - k * dilation
        if late > 0:
            out_ND[(T - late) * B :].addmm_(x_TBD[:late].view(late * B, D), weight_KDE[newest - k])
    return out_ND.view(T, B, weight_KDE.shape[-1])


class _ShiftedProducts(torch.autograd.Function):
    """`shifted_products` with its gradient; autograd's slices would write zero-filled gradients."""

    @staticmethod
    def forward(
        ctx: FunctionCtx, x_TBD: Tensor, weight_KDE: Tensor, bias_E: Tensor, dilation: int
    ) -> Tensor:
        x_TBD = x_TBD.contiguous()
        ctx.save_for_backward(x_TBD, weight_KDE)
        ctx.dilation = dilation  # type: ignore[attr-defined]
        return shifted_products(x_TBD, weight_KDE, bias_E, dilation)

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, grad_TBE: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        x_TBD, weight_KDE = ctx.saved_tensors  # type: ignore[attr-defined]
        dilation: int = ctx.dilation  # type: ignore[attr-defined]
        T, B, D = x_TBD.shape
        E = grad_TBE.shape[-1]
        newest = KERNEL - 1
        x_TBD, grad_TBE = x_TBD.contiguous(), grad_TBE.contiguous()
        flat_grad = grad_TBE.view(T * B, E)
        grad_x = torch.mm(flat_grad, weight_KDE[newest].t()).view(T, B, D)
        grad_weight = torch.zeros_like(weight_KDE)
        torch.mm(x_TBD.view(T * B, D).t(), flat_grad, out=grad_weight[newest])
        for k in range(1, KERNEL):
            shift = k * dilation
            if shift < T:
                late = grad_TBE[shift:].view((T - shift) * B, E)
                early = x_TBD[: T - shift].view((T - shift) * B, D)
                grad_x[: T - shift].view((T - shift) * B, D).addmm_(
                    late, weight_KDE[newest - k].t()
                )
                torch.mm(early.t(), late, out=grad_weight[newest - k])
        return grad_x, grad_weight, flat_grad.sum(0), None


def norm_relu_mask(
    x_TBD: Tensor, weight_D: Tensor, bias_D: Tensor, mask_TB1: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """relu(LayerNorm(x)), zero where the mask is 0; and LayerNorm's mean and 1 / std."""
    y, mean, rstd = torch.native_layer_norm(x_TBD, weight_D.shape, weight_D, bias_D, 1e-5)
    return y.relu_().mul_(mask_TB1), mean, rstd


class _NormReluMask(torch.autograd.Function):
    """`norm_relu_mask` with its gradient.

    The output is zero wherever relu or mask closed the way, so one pass undoes both going back.
    """

    @staticmethod
    def forward(
        ctx: FunctionCtx, x_TBD: Tensor, weight_D: Tensor, bias_D: Tensor, mask_TB1: Tensor
    ) -> Tensor:
        y, mean, rstd = norm_relu_mask(x_TBD, weight_D, bias_D, mask_TB1)
        ctx.save_for_backward(x_TBD, mean, rstd, weight_D, bias_D, y)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, grad_TBD: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        x_TBD, mean, rstd, weight_D, bias_D, y = ctx.saved_tensors  # type: ignore[attr-defined]
        grad_TBD = torch.ops.aten.threshold_backward(grad_TBD, y, 0)
        grads = torch.ops.aten.native_layer_norm_backward(
            grad_TBD, x_TBD, weight_D.shape, mean, rstd, weight_D, bias_D, [True, True, True]
        )
        return *grads, None


class CausalConv(nn.Module):
    """A convolution of width 3 over time that sees the present and the past only."""

    def __init__(self, width: int, dilation: int):
        super().__init__()
        self.dilation = dilation
        self.weight_KDE = nn.Parameter(torch.empty(KERNEL, width, width))
        self.bias_E = nn.Parameter(torch.zeros(width))

    def reset_parameters(self, generator: torch.Generator) -> None:
        """Truncated normal of 0.02, as the authors."""
        nn.init.trunc_normal_(self.weight_KDE, std=0.02, a=-0.04, b=0.04, generator=generator)

    def forward(self, x_TBD: Tensor) -> Tensor:
        """`[T, B, D]` to the same shape; positions before the window count as zeros."""
        if not torch.is_grad_enabled():  # an autograd function costs more than a block at batch 1
            return shifted_products(x_TBD, self.weight_KDE, self.bias_E, self.dilation)
        out: Tensor = _ShiftedProducts.apply(x_TBD, self.weight_KDE, self.bias_E, self.dilation)  # type: ignore[no-untyped-call]
        return out


class MaskedNormRelu(nn.Module):
    """relu(LayerNorm(x)) over channels, position by position; padding comes out as zeros."""

    def __init__(self, width: int):
        super().__init__()
        self.weight_D = nn.Parameter(torch.ones(width))
        self.bias_D = nn.Parameter(torch.zeros(width))

    def forward(self, x_TBD: Tensor, is_item_TB1: Tensor) -> Tensor:
        """`[T, B, D]` to the same shape."""
        if not torch.is_grad_enabled():
            return norm_relu_mask(x_TBD, self.weight_D, self.bias_D, is_item_TB1)[0]
        out: Tensor = _NormReluMask.apply(x_TBD, self.weight_D, self.bias_D, is_item_TB1)  # type: ignore[no-untyped-call]
        return out
