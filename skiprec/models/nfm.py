"""Neural factorisation machine, NFM (He & Chua, SIGIR 2017).

    score_j = w_j + h^T relu(W bi + b),  bi = sum over pairs of features of x_i v_i * x_k v_k

The features of an instance are the items of a history, as a bag, and the candidate item j, whose
factors are a table of their own: it is another field. With s = sum of x_i v_i over the history and
b = (s^2 - sum of (x_i v_i)^2) / 2, its own pairs, bi = b + s * v_j. So a history is (s, b), and all
positions of a row come from running sums. Linear terms of the history are the same for every
candidate, which changes no order, so there are none.

Deviations from the paper. An instance there has a few features, always as many; a history of n
items has n(n - 1)/2 pairs. So its features have the value x = 1 / sqrt(n), as in SVD++, with which
s and b of independent vectors keep their scale at every length. The paper normalises bi over the
batch; nothing here mixes rows.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from skiprec.config.model import ModelConfig
from skiprec.scores import Scores, rows_of

# Of the hidden layer, at once: 64 MB in float32.
MAX_HIDDEN = 2**24
BLOCK_ITEMS = 4096


class NfmEncoder(nn.Module):
    """The history's side, which has no weights but the embedding."""

    def reset_parameters(self, generator: torch.Generator) -> None:
        """Nothing to draw."""

    def forward(self, x_TBD: Tensor, is_item_TB1: Tensor) -> Tensor:
        """`[T, B, 2D]`: s beside b of the items up to each position, zero at padding."""
        count_TB1 = is_item_TB1.cumsum(0).clamp(min=1)
        sum_TBD = x_TBD.cumsum(0)
        pairs_TBD = (sum_TBD.square() - x_TBD.square().cumsum(0)) / 2
        return torch.cat([sum_TBD / count_TB1.sqrt(), pairs_TBD / count_TB1], dim=-1)


def layer_scores(
    x_ND: Tensor, weight_ID: Tensor, hidden_HD: Tensor, bias_H: Tensor, output_H: Tensor
) -> Tensor:
    """`[N, I]`: h^T relu(W (b + s * v) + bias) for N histories `[N, 2D]` and I items.

    W (s * v) = (W diag(s)) v, so all pairs are one product and no N x I x D numbers are made.
    """
    s_ND, b_ND = x_ND.chunk(2, dim=-1)
    num_rows, num_hidden = len(x_ND), len(output_H)
    of_history_NH = torch.addmm(bias_H, b_ND, hidden_HD.t())
    of_item_PD = (hidden_HD * s_ND[:, None, :]).flatten(0, 1)  # P: pairs of N and H
    hidden_PI = torch.addmm(of_history_NH.view(-1, 1), of_item_PD, weight_ID.t()).relu_()
    hidden_NHI = hidden_PI.view(num_rows, num_hidden, len(weight_ID))
    return torch.bmm(output_H.expand(num_rows, 1, num_hidden), hidden_NHI).squeeze(1)


@dataclass(frozen=True)
class NfmScores:
    """See `Scores`; each `x_ND` is `[N, 2D]`, s beside b."""

    weight_VD: Tensor
    bias_V: Tensor
    layer: tuple[Tensor, Tensor, Tensor]
    sparse: bool = False

    @property
    def num_items(self) -> int:
        """V."""
        return len(self.weight_VD)

    def columns(self, x_ND: Tensor, start: int, stop: int) -> Tensor:
        """See `Scores`. Holds at most `MAX_HIDDEN` numbers of the hidden layer (or one row's)."""
        hidden_HD, bias_H, output_H = (part.float() for part in self.layer)
        weight_ID, bias_I = self.weight_VD[start:stop].float(), self.bias_V[start:stop].float()
        num_rows = max(1, MAX_HIDDEN // (len(output_H) * BLOCK_ITEMS))
        blocks = []
        for block_ID in torch.split(weight_ID, BLOCK_ITEMS):
            rows = [
                layer_scores(rows_ND, block_ID, hidden_HD, bias_H, output_H)
                for rows_ND in torch.split(x_ND.float(), num_rows)
            ]
            blocks.append(torch.cat(rows))
        return torch.cat(blocks, dim=1) + bias_I

    def own(self, x_ND: Tensor, item_N: Tensor) -> Tensor:
        """See `Scores`."""
        hidden_HD, bias_H, output_H = self.layer
        s_ND, b_ND = x_ND.chunk(2, dim=-1)
        bi_ND = torch.addcmul(b_ND, s_ND, rows_of(self.weight_VD, item_N - 1, self.sparse))
        hidden_NH = torch.addmm(bias_H, bi_ND, hidden_HD.t()).relu_()
        return hidden_NH @ output_H + rows_of(self.bias_V, item_N - 1, self.sparse)

    def shared(self, x_ND: Tensor, item_S: Tensor) -> Tensor:
        """See `Scores`. In one piece of N x H x S numbers: `training.micro_batch_rows` bounds N."""
        weight_SD = rows_of(self.weight_VD, item_S - 1, self.sparse)
        return layer_scores(x_ND, weight_SD, *self.layer) + rows_of(
            self.bias_V, item_S - 1, self.sparse
        )


class NfmHead(nn.Module):
    """The candidates' side: factors and bias of each item, and the hidden layer, as wide."""

    def __init__(self, num_items: int, width: int):
        super().__init__()
        self.sparse = False
        self.weight_VD = nn.Parameter(torch.empty(num_items, width))
        self.bias_V = nn.Parameter(torch.zeros(num_items))
        self.hidden_HD = nn.Parameter(torch.empty(width, width))
        self.hidden_bias_H = nn.Parameter(torch.zeros(width))
        self.output_H = nn.Parameter(torch.empty(width))

    def reset_parameters(self, generator: torch.Generator) -> None:
        """Factors normal of 0.01, the layer as Glorot, as the authors."""
        nn.init.normal_(self.weight_VD, std=0.01, generator=generator)
        nn.init.xavier_uniform_(self.hidden_HD, generator=generator)
        nn.init.xavier_uniform_(self.output_H[None], generator=generator)

    def forward(self, x_ND: Tensor, use: Callable[[Tensor, Scores], Any]) -> Any:
        """`use(x_ND, scores)`, as `ItemHead`."""
        layer = (self.hidden_HD, self.hidden_bias_H, self.output_H)
        return use(x_ND, NfmScores(self.weight_VD, self.bias_V, layer, self.sparse))


def nfm_encoder(config: ModelConfig) -> list[nn.Module]:
    """The paper's best depth: one hidden layer, which is the head's.

    Raises:
        ValueError: `config.num_blocks` asks for more.
    """
    if config.num_blocks != 1:
        raise ValueError(
            f"model.num_blocks={config.num_blocks} has no effect with model.backbone='nfm', which "
            "has one hidden layer; set it to 1"
        )
    return [NfmEncoder()]
