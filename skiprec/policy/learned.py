"""The policy network: history -> vector -> one (skip, keep) pair of logits a block."""

import math

import torch
from torch import Tensor, nn

from skiprec.config import PolicyConfig
from skiprec.layers import ItemEmbedding
from skiprec.policy.decisions import KEEP, SKIP, argmax_keep, gumbel_keep
from skiprec.policy.encoders import ENCODERS
from skiprec.types import History, KeepDecision


class LearnedPolicy(nn.Module):
    """Full width with its own embedding as in the paper, or slim on the backbone's embedding.

    Args:
        backbone_width: channels of `History.x_TBD`, projected to the policy's width when slim.
    """

    def __init__(self, config: PolicyConfig, num_items: int, backbone_width: int, num_blocks: int):
        super().__init__()
        assert config.width is not None
        if config.encoder not in ENCODERS:
            raise ValueError(
                f"unknown policy.encoder {config.encoder!r}; there are: {', '.join(ENCODERS)}"
            )
        self.config = config
        self.embedding = ItemEmbedding(num_items, config.width) if config.own_embedding else None
        self.project = None if config.own_embedding else nn.Linear(backbone_width, config.width)
        self.encoder = ENCODERS[config.encoder](config.width)
        self.head = nn.Linear(config.width, 2 * num_blocks)

    def reset_parameters(self, generator: torch.Generator) -> None:
        """Small weights, so that every block first has P(keep) = `initial_keep_prob`."""
        assert self.config.initial_keep_prob is not None
        if self.embedding is not None:
            self.embedding.reset_parameters(generator)
        if self.project is not None:
            nn.init.xavier_uniform_(self.project.weight, generator=generator)
            nn.init.zeros_(self.project.bias)
        self.encoder.reset_parameters(generator)  # type: ignore[operator]
        nn.init.normal_(self.head.weight, std=0.02, generator=generator)
        # What the two logits of a block must differ by.
        gap = math.log(self.config.initial_keep_prob / (1 - self.config.initial_keep_prob))
        with torch.no_grad():
            bias_L2 = self.head.bias.view(-1, 2)
            if self.config.logits == "sigmoid":
                bias_L2[:, KEEP] = math.log((1 + gap) / (1 - gap))
                bias_L2[:, SKIP] = -math.log((1 + gap) / (1 - gap))
            else:
                bias_L2[:, KEEP], bias_L2[:, SKIP] = gap, 0.0

    def logits(self, history: History) -> Tensor:
        """`[B, L, 2]`, in the order of `decisions.SKIP, KEEP`."""
        if self.embedding is not None:
            x_TBD = self.embedding(history.item_TB)
        else:
            assert self.project is not None
            x_TBD = self.project(history.x_TBD) * history.is_item_TB1
        vector_BD = self.encoder(x_TBD, history.is_item_TB1.to(x_TBD.dtype))
        logits_BL2: Tensor = self.head(vector_BD).unflatten(-1, (-1, 2))
        if self.config.logits == "sigmoid":
            # The released code squashes here, which bounds P(keep) to (0.27, 0.73).
            return torch.sigmoid(logits_BL2)
        return logits_BL2

    def forward(self, history: History, temperature: float | None) -> KeepDecision:
        """A Gumbel sample at `temperature`; None decides as in serving."""
        logits_BL2 = self.logits(history)
        if temperature is not None:
            return gumbel_keep(logits_BL2, temperature, history.key_B)
        if self.config.noise_at_inference:  # the released code samples here too; ours, by row key
            assert self.config.temperature_end is not None
            return gumbel_keep(logits_BL2, self.config.temperature_end, history.key_B)
        return argmax_keep(logits_BL2)
