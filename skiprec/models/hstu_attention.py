"""Attention of HSTU: silu(q k^T + bias) v, with the scores of a few rows at a time.

The scores of a batch have B * H * T * T elements, and each operator on them reads and writes main
memory. So a chunk of rows goes through all operators while its scores are in the processor's
cache. The backward pass computes the scores again: only queries, keys and values are kept.
"""

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

HIDE = -(2.0**30)  # silu of a score to which this is added is exactly 0, and so is its derivative
CHUNK_SCORES = 2**18  # 1 MB of float32


def pointwise_attention(
    q_BHTC: Tensor,
    k_BHTC: Tensor,
    v_BHTC: Tensor,
    bias_TT: Tensor,
    time_bias_N: Tensor | None = None,
    bucket_BTT: Tensor | None = None,
) -> Tensor:
    """`[B, H, T, C]`: silu(q k^T + bias + time_bias[bucket]) v (Zhai et al., ICML 2024, eq. 2).

    Scores are added in float32, or in float64 if the inputs are.

    Args:
        bias_TT: the bias of each (query, key), for all rows and heads; `HIDE` hides the key.
        time_bias_N, bucket_BTT: the bias of each bucket, and the bucket of each (row, query, key).
    """
    out_BHTC: Tensor = _PointwiseAttention.apply(  # type: ignore[no-untyped-call]
        q_BHTC.contiguous(),
        k_BHTC.contiguous(),
        v_BHTC.contiguous(),
        bias_TT,
        time_bias_N,
        bucket_BTT,
    )
    return out_BHTC


class _PointwiseAttention(torch.autograd.Function):
    @staticmethod
    def forward(ctx, q_BHTC, k_BHTC, v_BHTC, bias_TT, time_bias_N, bucket_BTT):  # type: ignore[no-untyped-def]
        ctx.save_for_backward(q_BHTC, k_BHTC, v_BHTC, bias_TT, time_bias_N, bucket_BTT)
        out_BHTC = torch.empty_like(v_BHTC)
        for rows in _chunks(q_BHTC):
            score = _scores(q_BHTC, k_BHTC, bias_TT, time_bias_N, bucket_BTT, rows)
            out_BHTC[rows] = F.silu(score, inplace=True).to(v_BHTC.dtype) @ v_BHTC[rows]
        return out_BHTC

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_BHTC):  # type: ignore[no-untyped-def]
        q_BHTC, k_BHTC, v_BHTC, bias_TT, time_bias_N, bucket_BTT = ctx.saved_tensors
        grad_BHTC = grad_BHTC.contiguous()
        grad_q, grad_k, grad_v = (torch.empty_like(x) for x in (q_BHTC, k_BHTC, v_BHTC))
        grad_bias_TT = torch.zeros_like(_wide(bias_TT))
        grad_time_N = None if time_bias_N is None else torch.zeros_like(time_bias_N).double()
        for rows in _chunks(q_BHTC):
            score = _scores(q_BHTC, k_BHTC, bias_TT, time_bias_N, bucket_BTT, rows)
            weight = F.silu(score).to(grad_BHTC.dtype)
            grad_v[rows] = weight.transpose(2, 3) @ grad_BHTC[rows]
            grad_weight = _wide(grad_BHTC[rows] @ v_BHTC[rows].transpose(2, 3))
            grad_score = torch.ops.aten.silu_backward(grad_weight, score)
            grad_bias_TT += grad_score.sum((0, 1))
            if grad_time_N is not None:
                grad_time_N += torch.bincount(
                    bucket_BTT[rows].flatten().long(),
                    weights=grad_score.sum(1).flatten(),
                    minlength=len(grad_time_N),
                )
            grad_score = grad_score.to(q_BHTC.dtype)
            grad_q[rows] = grad_score @ k_BHTC[rows]
            grad_k[rows] = grad_score.transpose(2, 3) @ q_BHTC[rows]
        grad_time_N = None if grad_time_N is None else grad_time_N.to(time_bias_N.dtype)
        return grad_q, grad_k, grad_v, grad_bias_TT.to(bias_TT.dtype), grad_time_N, None


def _chunks(q_BHTC: Tensor) -> Iterator[slice]:
    """Slices of rows. Other devices than a CPU compute all rows at once."""
    B, H, T, _ = q_BHTC.shape
    size = max(1, CHUNK_SCORES // (H * T * T)) if q_BHTC.device.type == "cpu" else max(1, B)
    return (slice(first, first + size) for first in range(0, B, size))


def _scores(
    q_BHTC: Tensor,
    k_BHTC: Tensor,
    bias_TT: Tensor,
    time_bias_N: Tensor | None,
    bucket_BTT: Tensor | None,
    rows: slice,
) -> Tensor:
    """`[rows, H, T, T]`, float32 or wider: the scores of a chunk, before silu."""
    score = _wide(q_BHTC[rows] @ k_BHTC[rows].transpose(2, 3))
    score += bias_TT
    if time_bias_N is not None and bucket_BTT is not None:
        score += time_bias_N[bucket_BTT[rows].long()].unsqueeze(1)
    return score


def _wide(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))
