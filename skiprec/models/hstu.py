"""HSTU (Zhai et al., ICML 2024, eq. 1 to 3): attention without a softmax, gated, no feed-forward.

    u, v, q, k = silu(LN(x) W);  A = silu(q k^T + bias[i - j] + time_bias[bucket]) / N, causal
    branch = (LN(A v) * u) Wo

N is the constant `max_positions`, so that scores of a longer history add up to more. Both norms
have no weights, and each block learns a bias for each distance of two positions, as in the authors'
code. They drop elements between u and Wo; here the stack drops elements of the branch. With
`model.time`, each block also learns a bias for each bucket of the time from key j to query i.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from skiprec.config.model import ModelConfig, TimeMode
from skiprec.models.hstu_attention import HIDE, pointwise_attention
from skiprec.models.sasrec import MAX_POSITIONS, checked_heads

NUM_BUCKETS = 129
NATS_A_BUCKET = 0.301


class HstuBlock(nn.Module):
    """The residual branch; the stack adds it to the block's input."""

    def __init__(self, width: int, num_heads: int, max_positions: int, reads_time: bool):
        super().__init__()
        self.num_heads, self.max_positions = num_heads, max_positions
        self.weight_DE = nn.Parameter(torch.empty(width, 4 * width))  # u, v, queries, keys
        self.out_DE = nn.Parameter(torch.empty(width, width))
        self.bias_P = nn.Parameter(torch.zeros(max_positions))  # by distance, 0 first
        self.time_bias_N1 = nn.Parameter(torch.zeros(NUM_BUCKETS, 1)) if reads_time else None

    def reset_parameters(self, generator: torch.Generator) -> None:
        """Normal with std 0.02, and Xavier for the last product, as in the authors' code."""
        nn.init.normal_(self.weight_DE, std=0.02, generator=generator)
        nn.init.xavier_uniform_(self.out_DE, generator=generator)
        nn.init.normal_(self.bias_P, std=0.02, generator=generator)
        if self.time_bias_N1 is not None:
            nn.init.normal_(self.time_bias_N1, std=0.02, generator=generator)

    def forward(self, x_TBD: Tensor, context_TBC: Tensor) -> Tensor:
        """`branch_TBD`, zero at padding."""
        T, B, D = x_TBD.shape
        is_item_TB1, bucket_TBT = context_TBC[..., :1], context_TBC[..., 1:]
        normed_ND = F.layer_norm(x_TBD, (D,)).reshape(T * B, D)
        uvqk_TB4HC = F.silu(normed_ND @ self.weight_DE).view(
            T, B, 4, self.num_heads, D // self.num_heads
        )
        u_BHTC, v_BHTC, q_BHTC, k_BHTC = uvqk_TB4HC.permute(2, 1, 3, 0, 4).unbind()
        place_T = torch.arange(T, device=x_TBD.device)
        distance_TT = place_T[:, None] - place_T
        bias_TT = self.bias_P[distance_TT.clamp(min=0)].masked_fill(distance_TT < 0, HIDE)
        seen_v_BHTC = v_BHTC * is_item_TB1.permute(1, 2, 0)[..., None].to(v_BHTC.dtype)
        time_bias_N = None if self.time_bias_N1 is None else self.time_bias_N1[:, 0]
        mixed_BHTC = pointwise_attention(
            q_BHTC, k_BHTC, seen_v_BHTC, bias_TT, time_bias_N, bucket_TBT.transpose(0, 1)
        )
        mixed_TBD = mixed_BHTC.permute(2, 0, 1, 3).reshape(T, B, D) / self.max_positions
        u_TBD = u_BHTC.permute(2, 0, 1, 3).reshape(T, B, D)
        gated_ND = (F.layer_norm(mixed_TBD, (D,)) * u_TBD).view(T * B, D)
        return (gated_ND @ self.out_DE).view(T, B, D) * is_item_TB1


def hstu_blocks(config: ModelConfig) -> list[nn.Module]:
    """The blocks of HSTU."""
    heads = checked_heads(config)
    positions = config.max_positions or MAX_POSITIONS
    reads_time = config.time is not None
    return [HstuBlock(config.width, heads, positions, reads_time) for _ in range(config.num_blocks)]


def time_buckets(times_BW: Tensor, mode: TimeMode) -> Tensor:
    """`[T, B, T]` (query, row, key): the bucket of the time from a key to its query.

    A bucket is floor(ln(seconds) / 0.301), from 0 to 128. The query at position i is at the time of
    item i, or in mode `request` at the time of item i + 1, the next item.
    """
    key_BT = times_BW[:, :-1]
    query_BT = times_BW[:, 1:] if mode == "request" else key_BT
    seconds_TBT = (query_BT.t()[:, :, None] - key_BT[None]).abs() // 1000
    bucket_TBT: Tensor = (seconds_TBT.clamp(min=1).log() / NATS_A_BUCKET).floor()
    return bucket_TBT.clamp(max=NUM_BUCKETS - 1)
