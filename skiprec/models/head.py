"""The head: scores of all items from hidden vectors."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from skiprec.config.model import ModelConfig
from skiprec.layers import ItemEmbedding
from skiprec.scores import DotProduct, Scores


class ItemHead(nn.Module):
    """The output matrix, a table of its own. Row v scores item v + 1.

    `sparse` means the same as in `nn.Embedding`: gradients are lists of the rows that were used.

    Args:
        has_norm: whether a LayerNorm comes first. The output of a stack of residual blocks grows
            with every block that runs; a norm gives the scores one scale at any depth.
        temperature: scores are cosines divided by it. None: dot products plus a bias.
    """

    def __init__(
        self,
        num_items: int,
        width: int,
        has_norm: bool = False,
        temperature: float | None = None,
    ):
        super().__init__()
        self.sparse = False
        self.temperature = temperature
        self.norm = nn.LayerNorm(width) if has_norm else None
        self.weight_VD = nn.Parameter(torch.empty(num_items, width))
        self.bias_V = first_biases(num_items) if temperature is None else None

    def reset_parameters(self, generator: torch.Generator) -> None:
        """Normal weights with std 0.01 and biases of 0.1, as in the authors' code."""
        nn.init.normal_(self.weight_VD, std=0.01, generator=generator)

    def forward(self, x_ND: Tensor, use: Callable[[Tensor, Scores], Any]) -> Any:
        """The result of `use(x_ND, scores)`: a loss, ranks or a top-k list.

        `use` runs inside the module's call, because ZeRO-3 gathers the whole matrix only there.
        """
        if self.norm is not None:
            x_ND = self.norm(x_ND)
        if self.bias_V is None:
            return use(*cosine_scores(x_ND, self.weight_VD, self.temperature))
        return use(x_ND, DotProduct(self.weight_VD, self.bias_V, self.sparse))


class TiedItemHead(nn.Module):
    """A head that scores items by the vectors that the network reads.

    The table stays the embedding's: it is in the state dict once, under that name. ZeRO-3 must be
    told that this module reads it (`cluster/training/deepspeed_engine.py`).
    """

    def __init__(
        self, embedding: ItemEmbedding, has_norm: bool = False, temperature: float | None = None
    ):
        super().__init__()
        self.temperature = temperature
        self._embedding = (embedding,)  # in a tuple, so that it is no submodule
        num_items, width = embedding.table.num_embeddings - 1, embedding.table.embedding_dim
        self.norm = nn.LayerNorm(width) if has_norm else None
        self.bias_V = first_biases(num_items) if temperature is None else None

    @property
    def weight_VD(self) -> Tensor:
        """The item vectors without the row of padding."""
        return self.table_weight[1:]

    @property
    def table_weight(self) -> Tensor:
        """The embedding's weight, with the row of padding."""
        return self._embedding[0].table.weight

    def reset_parameters(self, generator: torch.Generator) -> None:
        """Draws nothing: the embedding draws the table."""

    def forward(self, x_ND: Tensor, use: Callable[[Tensor, Scores], Any]) -> Any:
        """See `ItemHead`."""
        if self.norm is not None:
            x_ND = self.norm(x_ND)
        if self.bias_V is None:
            return use(*cosine_scores(x_ND, self.weight_VD, self.temperature))
        return use(x_ND, DotProduct(self.weight_VD, self.bias_V, sparse=False))


def first_biases(num_items: int) -> nn.Parameter:
    """Biases of 0.1, as in the authors' code."""
    return nn.Parameter(torch.full((num_items,), 0.1))


def cosine_scores(
    x_ND: Tensor, weight_VD: Tensor, temperature: float | None
) -> tuple[Tensor, DotProduct]:
    """Vectors and scores whose dot products are cosines divided by the temperature."""
    assert temperature is not None
    unit_ND = F.normalize(x_ND, dim=-1) / temperature
    return unit_ND, DotProduct(F.normalize(weight_VD, dim=-1), weight_VD.new_zeros(len(weight_VD)))


def item_head(config: ModelConfig, num_items: int) -> nn.Module:
    """The head of the backbones."""
    return ItemHead(num_items, config.width, config.head_has_norm, config.cosine_temperature)
