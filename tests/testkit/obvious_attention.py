"""Attention and its surroundings by loops, one number at a time: slow and obvious references."""

import torch
from torch import Tensor, nn

from skiprec.attention import FeedForward, SelfAttention


def obvious_norm(x_TBD: Tensor, norm: nn.LayerNorm) -> Tensor:
    centred = x_TBD - x_TBD.mean(-1, keepdim=True)
    variance = centred.square().mean(-1, keepdim=True)
    return centred / torch.sqrt(variance + 1e-5) * norm.weight + norm.bias


def obvious_attention(attention: SelfAttention, x_TBD: Tensor, is_item_TB1: Tensor) -> Tensor:
    """Real queries look at real keys, if causal at none after them; zero at padding."""
    T, B, D = x_TBD.shape
    width = D // attention.num_heads
    weight_qkv = attention.weight_DE.split(D, dim=1)
    rows = []
    for row in range(B):
        is_real = [bool(is_item_TB1[t, row, 0] > 0) for t in range(T)]
        outputs = []
        for query in range(T):
            last = query if attention.is_causal else T - 1
            keys = [t for t in range(last + 1) if is_real[t]]
            heads = []
            for head in range(attention.num_heads):
                part = slice(head * width, (head + 1) * width)
                q, k, v = (x_TBD[:, row] @ weight[:, part] for weight in weight_qkv)
                if not is_real[query]:
                    heads.append(torch.zeros_like(v[0]))
                    continue
                powers = [torch.exp(torch.dot(q[query], k[key]) / width**0.5) for key in keys]
                total = sum(powers)
                heads.append(
                    sum(power / total * v[key] for power, key in zip(powers, keys, strict=True))
                )
            outputs.append(torch.cat(heads))
        rows.append(torch.stack(outputs))
    return torch.stack(rows, dim=1)


def obvious_feed_forward(net: FeedForward, x_TBD: Tensor) -> Tensor:
    h_TBD = torch.clamp(x_TBD @ net.weight_1_DE + net.bias_1_E, min=0)
    return h_TBD @ net.weight_2_DE + net.bias_2_E


def left_padded(
    positions: int, rows: int, width: int, seed: int = 0, dtype: torch.dtype = torch.float64
) -> tuple[Tensor, Tensor]:
    """`x_TBD, is_item_TB1`: row r has r padded positions, as far as there are any."""
    generator = torch.Generator().manual_seed(seed)
    is_item_TB1 = torch.ones(positions, rows, 1, dtype=dtype)
    for row in range(rows):
        is_item_TB1[: min(row, positions), row] = 0
    x_TBD = torch.randn(positions, rows, width, dtype=dtype, generator=generator) * is_item_TB1
    return x_TBD, is_item_TB1


def stir(module: nn.Module, seed: int) -> None:
    """Moves every weight off its first value."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator).to(parameter.dtype))


def output_and_gradients(module: nn.Module, out: Tensor, x_TBD: Tensor) -> list[Tensor]:
    """The output; gradients of input and weights, of a sum in which no two elements count alike."""
    weight = torch.linspace(-1, 2, out.numel(), dtype=out.dtype).view_as(out)
    gradients = torch.autograd.grad((out * weight).sum(), [x_TBD, *module.parameters()])
    return [out, *gradients]
