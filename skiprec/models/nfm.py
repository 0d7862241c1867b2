"""Neural factorisation machine, NFM (He & Chua, SIGIR 2017).

    score_j = w_j + h^T relu(W bi + b),  bi = sum over pairs of features of x_i v_i * x_k v_k

The features of an instance are the items of a history, without their order, and the candidate item
j. The candidate is another field, so its factors have a table of their own. Let s be the sum of
x_i v_i over the history, and b = (s^2 - sum of (x_i v_i)^2) / 2 the sum over pairs within the
history. Then bi = b + s * v_j. The encoder therefore turns a history into (s, b), by running sums
for all positions at once. The linear terms of the history are left out, because they are equal for
all candidates and change no ranking.

We deviate from the paper in two ways. First, the paper's instances have a small, fixed number of
features, while a history of n items has n(n - 1)/2 pairs. Our features therefore have the value
x = 1 / sqrt(n), as in SVD++, which keeps the scale of s and b of independent vectors at every
length. Second, the paper normalises bi over the batch. We do not, because no module mixes rows.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from skiprec.config.model import ModelConfig
from skiprec.scores import Scores, rows_of

# Most numbers of the hidden layer in memory at once: 64 MB in float32.
MAX_HIDDEN = 2**24
BLOCK_ITEMS = 4096


class NfmEncoder(nn.Module):
    """The side of the history. Its only weights are those of the embedding."""

    def reset_parameters(self, generator: torch.Generator) -> None:
        """Draws nothing, because there are no weights."""

    def forward(self, x_TBD: Tensor, is_item_TB1: Tensor) -> Tensor:
        """`[T, B, 2D]`: s and b of the items up to each position, zero at padding."""
        count_TB1 = is_item_TB1.cumsum(0).clamp(min=1)
        sum_TBD = x_TBD.cumsum(0)
        pairs_TBD = (sum_TBD.square() - x_TBD.square().cumsum(0)) / 2
        return torch.cat([sum_TBD / count_TB1.sqrt(), pairs_TBD / count_TB1], dim=-1)


def layer_scores(
    x_ND: Tensor, weight_ID: Tensor, hidden_HD: Tensor, bias_H: Tensor, output_H: Tensor
) -> Tensor:
    """`[N, I]`: h^T relu(W (b + s * v) + bias) for N histories `x_ND` (`[N, 2D]`) and I items.

    W (s * v) = (W diag(s)) v, so one product serves all pairs of history and item, and no tensor of
    N x I x D numbers is needed.
    """
    s_ND, b_ND = x_ND.chunk(2, dim=-1)
    num_rows, num_hidden = len(x_ND), len(output_H)
    bias_NH = torch.addmm(bias_H, b_ND, hidden_HD.t())
    hidden_NHD = hidden_HD * s_ND[:, None, :]
    flat = torch.addmm(bias_NH.view(-1, 1), hidden_NHD.flatten(0, 1), weight_ID.t()).relu_()
    hidden_NHI = flat.view(num_rows, num_hidden, len(weight_ID))
    return torch.bmm(output_H.expand(num_rows, 1, num_hidden), hidden_NHI).squeeze(1)


@dataclass(frozen=True)
class NfmScores:
    """See `Scores`. Each `x_ND` has the shape `[N, 2D]`: s, then b."""

    weight_VD: Tensor
    bias_V: Tensor
    layer: tuple[Tensor, Tensor, Tensor]
    sparse: bool = False

    @property
    def num_items(self) -> int:
        """V, the number of items of the catalogue."""
        return len(self.weight_VD)

    def columns(self, x_ND: Tensor, start: int, stop: int) -> Tensor:
        """See `Scores`. Holds `MAX_HIDDEN` numbers of the hidden layer, or those of one row."""
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
        """See `Scores`. Holds N x H x S numbers at once; `training.micro_batch_rows` bounds N."""
        weight_SD = rows_of(self.weight_VD, item_S - 1, self.sparse)
        return layer_scores(x_ND, weight_SD, *self.layer) + rows_of(
            self.bias_V, item_S - 1, self.sparse
        )


class NfmHead(nn.Module):
    """The side of the candidates: factors and bias of each item, and a hidden layer of width D."""

    def __init__(self, num_items: int, width: int):
        super().__init__()
        self.sparse = False
        self.weight_VD = nn.Parameter(torch.empty(num_items, width))
        self.bias_V = nn.Parameter(torch.zeros(num_items))
        self.hidden_HD = nn.Parameter(torch.empty(width, width))
        self.hidden_bias_H = nn.Parameter(torch.zeros(width))
        self.output_H = nn.Parameter(torch.empty(width))

    def reset_parameters(self, generator: torch.Generator) -> None:
        """Normal factors with std 0.01 and a Glorot uniform layer, as in the authors' code."""
        nn.init.normal_(self.weight_VD, std=0.01, generator=generator)
        nn.init.xavier_uniform_(self.hidden_HD, generator=generator)
        nn.init.xavier_uniform_(self.output_H[None], generator=generator)

    def forward(self, x_ND: Tensor, use: Callable[[Tensor, Scores], Any]) -> Any:
        """The result of `use(x_ND, scores)`, as in `ItemHead`."""
        layer = (self.hidden_HD, self.hidden_bias_H, self.output_H)
        return use(x_ND, NfmScores(self.weight_VD, self.bias_V, layer, self.sparse))


def nfm_head(config: ModelConfig, num_items: int) -> nn.Module:
    """The head of NFM."""
    return NfmHead(num_items, config.width)


def nfm_encoder(config: ModelConfig) -> list[nn.Module]:
    """A list of one module. The one hidden layer, the best depth in the paper, is in the head.

    Raises:
        ValueError: `config.num_blocks` is not 1.
    """
    if config.num_blocks != 1:
        raise ValueError(
            f"model.num_blocks={config.num_blocks} has no effect with model.backbone='nfm', which "
            "has one hidden layer; set it to 1"
        )
    return [NfmEncoder()]
