"""The layers that backbones and policies share. Sequences are time-major; padding stays zero."""

import torch
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx, once_differentiable

from skiprec import keyed_random
from skiprec.types import PADDING

KERNEL = 3


class ItemEmbedding(nn.Module):
    """A table of one vector for each item; the vector of padding is exactly zero."""

    def __init__(self, num_items: int, width: int):
        super().__init__()
        self.table = nn.Embedding(num_items + 1, width, padding_idx=PADDING)

    def reset_parameters(self, generator: torch.Generator) -> None:
        """Truncated normal with std 0.02, as in the authors' code; row 0 is zero."""
        nn.init.trunc_normal_(self.table.weight, std=0.02, a=-0.04, b=0.04, generator=generator)
        with torch.no_grad():
            self.table.weight[PADDING].zero_()

    def forward(self, item_TB: Tensor) -> Tensor:
        """The vectors of `item_TB`, `[T, B, D]`."""
        x_TBD: Tensor = self.table(item_TB)
        return x_TBD


class KeyedDropout(nn.Module):
    """Dropout whose mask is a function of the row's key. In evaluation it is the identity."""

    def __init__(self, rate: float, stream: str):
        super().__init__()
        self.rate, self.stream = rate, stream

    def forward(self, x_TBD: Tensor, key_B: Tensor) -> Tensor:
        """`[T, B, D]`, the shape of the input."""
        if not self.training or self.rate == 0:
            return x_TBD
        return keyed_random.dropout(x_TBD, key_B, self.stream, self.rate)


def shifted_products(x_TBD: Tensor, weight_PDE: Tensor, bias_E: Tensor, dilation: int) -> Tensor:
    """Causal convolution as products of contiguous shifted views: `[T, B, E]`.

    out[t] = bias + sum_k x[t - k * dilation] @ weight[P - 1 - k]. Nothing is padded or copied. A
    tap that lies wholly before the window costs nothing, which saves a fifth of the products at
    T = 19 and dilations 1, 2, 4, 8.
    """
    T, B, D = x_TBD.shape
    newest = KERNEL - 1
    x_TBD = x_TBD.contiguous()
    out_ND = torch.addmm(bias_E, x_TBD.view(T * B, D), weight_PDE[newest])
    for k in range(1, KERNEL):
        late = T - k * dilation
        if late > 0:
            out_ND[(T - late) * B :].addmm_(x_TBD[:late].view(late * B, D), weight_PDE[newest - k])
    return out_ND.view(T, B, weight_PDE.shape[-1])


class _ShiftedProducts(torch.autograd.Function):
    """`shifted_products` with its gradient; autograd would fill zero gradients for every slice."""

    @staticmethod
    def forward(
        ctx: FunctionCtx, x_TBD: Tensor, weight_PDE: Tensor, bias_E: Tensor, dilation: int
    ) -> Tensor:
        x_TBD = x_TBD.contiguous()
        ctx.save_for_backward(x_TBD, weight_PDE)
        ctx.dilation = dilation  # type: ignore[attr-defined]
        return shifted_products(x_TBD, weight_PDE, bias_E, dilation)

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, grad_TBE: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        x_TBD, weight_PDE = ctx.saved_tensors  # type: ignore[attr-defined]
        dilation: int = ctx.dilation  # type: ignore[attr-defined]
        T, B, D = x_TBD.shape
        E = grad_TBE.shape[-1]
        newest = KERNEL - 1
        x_TBD, grad_TBE = x_TBD.contiguous(), grad_TBE.contiguous()
        flat_grad = grad_TBE.view(T * B, E)
        grad_x = torch.mm(flat_grad, weight_PDE[newest].t()).view(T, B, D)
        grad_weight = torch.zeros_like(weight_PDE)
        torch.mm(x_TBD.view(T * B, D).t(), flat_grad, out=grad_weight[newest])
        for k in range(1, KERNEL):
            shift = k * dilation
            if shift < T:
                late = grad_TBE[shift:].view((T - shift) * B, E)
                early = x_TBD[: T - shift].view((T - shift) * B, D)
                grad_x[: T - shift].view((T - shift) * B, D).addmm_(
                    late, weight_PDE[newest - k].t()
                )
                torch.mm(early.t(), late, out=grad_weight[newest - k])
        return grad_x, grad_weight, flat_grad.sum(0), None


def norm_relu_mask(
    x_TBD: Tensor, weight_D: Tensor, bias_D: Tensor, mask_TB1: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """relu(LayerNorm(x)), zero where the mask is 0; LayerNorm's mean; and its 1 / std."""
    y, mean, rstd = torch.native_layer_norm(x_TBD, weight_D.shape, weight_D, bias_D, 1e-5)
    return y.relu_().mul_(mask_TB1), mean, rstd


class _NormReluMask(torch.autograd.Function):
    """`norm_relu_mask` with its gradient.

    The output is zero wherever relu or the mask blocks the gradient, so the backward pass applies
    both in one operator.
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
    """A convolution over time with 3 taps, which see the present and the past only."""

    def __init__(self, width: int, dilation: int):
        super().__init__()
        self.dilation = dilation
        self.weight_KDE = nn.Parameter(torch.empty(KERNEL, width, width))
        self.bias_E = nn.Parameter(torch.zeros(width))

    def reset_parameters(self, generator: torch.Generator) -> None:
        """Truncated normal with std 0.02, as in the authors' code."""
        nn.init.trunc_normal_(self.weight_KDE, std=0.02, a=-0.04, b=0.04, generator=generator)

    def forward(self, x_TBD: Tensor) -> Tensor:
        """`[T, B, D]`; positions before the window count as zeros."""
        if not torch.is_grad_enabled():
            # At batch size 1, calling an autograd function costs more than the whole block.
            return shifted_products(x_TBD, self.weight_KDE, self.bias_E, self.dilation)
        out: Tensor = _ShiftedProducts.apply(x_TBD, self.weight_KDE, self.bias_E, self.dilation)  # type: ignore[no-untyped-call]
        return out


class MaskedNormRelu(nn.Module):
    """relu(LayerNorm(x)) over the channels of each position; the output is zero at padding."""

    def __init__(self, width: int):
        super().__init__()
        self.weight_D = nn.Parameter(torch.ones(width))
        self.bias_D = nn.Parameter(torch.zeros(width))

    def forward(self, x_TBD: Tensor, is_item_TB1: Tensor) -> Tensor:
        """`[T, B, D]`, the shape of the input."""
        if not torch.is_grad_enabled():
            return norm_relu_mask(x_TBD, self.weight_D, self.bias_D, is_item_TB1)[0]
        out: Tensor = _NormReluMask.apply(x_TBD, self.weight_D, self.bias_D, is_item_TB1)  # type: ignore[no-untyped-call]
        return out
