"""Self-attention and its feed-forward net, for backbones and policies; time-major, left-padded.

There are H heads of C = D / H channels each. The projections have no bias and there is no output
projection, as in SASRec (Kang & McAuley, ICDM 2018, eq. 2 and 3).
"""

from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# A score to which this is added gets a weight of exactly 0 in the softmax. The number is a power of
# 2, so it is exact in bf16, too.
HIDE = -(2.0**30)


@lru_cache(maxsize=32)
def _all_keys_hidden(
    num_queries: int, num_keys: int, dtype: torch.dtype, device: torch.device
) -> Tensor:
    bias = torch.full((num_queries, num_keys), HIDE, dtype=dtype, device=device)
    is_future = torch.ones(num_queries, num_keys, dtype=torch.bool, device=device).triu_(1)
    return bias.masked_fill_(is_future, -torch.inf) if num_queries > 1 else bias


def attention_bias(is_item_TB1: Tensor, is_causal: bool) -> Tensor:
    """The bias of the attention scores: 0 where a query may attend to a key, else negative.

    The shape is `[B, 1, T, T]` (query, key) if causal, else `[B, 1, 1, T]`. A causal mask alone is
    not enough, because rows are padded on the left: real queries come after the padded keys and
    would attend to them. Padded keys get a finite number instead of -inf, because a padded query
    has no real key to attend to, and a softmax over -inf alone is NaN.
    """
    num_positions = len(is_item_TB1)
    # An exporter's tensors hold no numbers, so none of them may stay in the cache.
    make = _all_keys_hidden.__wrapped__ if torch.compiler.is_exporting() else _all_keys_hidden
    num_queries = num_positions if is_causal else 1
    hidden = make(num_queries, num_positions, is_item_TB1.dtype, is_item_TB1.device)
    # One operator is enough, because HIDE - HIDE is exactly 0. Every block computes this bias.
    return torch.add(hidden, is_item_TB1.permute(1, 2, 0).unsqueeze(1), alpha=-HIDE)


class SelfAttention(nn.Module):
    """Scaled dot-product attention between the real positions."""

    def __init__(self, width: int, num_heads: int, is_causal: bool):
        super().__init__()
        self.num_heads, self.is_causal = num_heads, is_causal
        self.weight_DE = nn.Parameter(torch.empty(width, 3 * width))  # queries, keys, values

    def reset_parameters(self, generator: torch.Generator) -> None:
        """Normal, with the variance of Xavier for each of the three square matrices."""
        nn.init.normal_(self.weight_DE, std=len(self.weight_DE) ** -0.5, generator=generator)

    def forward(self, x_TBD: Tensor, is_item_TB1: Tensor) -> Tensor:
        """`[T, B, D]`. The output at padding is finite but not zero: the caller masks it."""
        T, B, D = x_TBD.shape
        qkv_NE = torch.mm(x_TBD.reshape(T * B, D), self.weight_DE)
        qkv_TB3HC = qkv_NE.view(T, B, 3, self.num_heads, D // self.num_heads)
        q_BHTC, k_BHTC, v_BHTC = qkv_TB3HC.permute(2, 1, 3, 0, 4).unbind()
        bias = attention_bias(is_item_TB1, self.is_causal)
        out_BHTC = F.scaled_dot_product_attention(q_BHTC, k_BHTC, v_BHTC, attn_mask=bias)
        return out_BHTC.permute(2, 0, 1, 3).reshape(T, B, D)


class FeedForward(nn.Module):
    """Two layers as wide as the input, with a relu between them, applied to each position."""

    def __init__(self, width: int):
        super().__init__()
        self.weight_1_DE = nn.Parameter(torch.empty(width, width))
        self.bias_1_E = nn.Parameter(torch.zeros(width))
        self.weight_2_DE = nn.Parameter(torch.empty(width, width))
        self.bias_2_E = nn.Parameter(torch.zeros(width))

    def reset_parameters(self, generator: torch.Generator) -> None:
        """Normal, with the variance of Xavier."""
        for weight_DE in (self.weight_1_DE, self.weight_2_DE):
            nn.init.normal_(weight_DE, std=len(weight_DE) ** -0.5, generator=generator)

    def forward(self, x_TBD: Tensor) -> Tensor:
        """`[T, B, D]`. The output at padding is finite but not zero."""
        x_ND = x_TBD.reshape(-1, x_TBD.shape[-1])
        h_ND = torch.addmm(self.bias_1_E, x_ND, self.weight_1_DE).relu_()
        return torch.addmm(self.bias_2_E, h_ND, self.weight_2_DE).view(x_TBD.shape)
