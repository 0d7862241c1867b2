"""The network of a learned policy: trunk and keep head."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from skiprec.layers import ItemEmbedding
from skiprec.policy.encoders import ENCODERS
from skiprec.policy.section import Feature, LearnedSection
from skiprec.types import History


class PolicyTrunk(nn.Module):
    """Turns a history into one vector for each row.

    It either has its own embedding, as in the paper, or projects the backbone's item vectors.

    Args:
        backbone_width: channels of `History.x_TBD`, which are projected to the policy's width.

    Raises:
        ValueError: the encoder is unknown.
    """

    def __init__(self, config: LearnedSection, num_items: int, backbone_width: int):
        super().__init__()
        if config.encoder not in ENCODERS:
            raise ValueError(
                f"unknown policy.encoder {config.encoder!r}; there are: {', '.join(ENCODERS)}"
            )
        self.embedding = ItemEmbedding(num_items, config.width) if config.own_embedding else None
        self.project = None if config.own_embedding else nn.Linear(backbone_width, config.width)
        self.encoder = ENCODERS[config.encoder](config.width)

    def reset_parameters(self, generator: torch.Generator) -> None:
        """Draws the embedding or the projection, then the encoder."""
        if self.embedding is not None:
            self.embedding.reset_parameters(generator)
        if self.project is not None:
            nn.init.xavier_uniform_(self.project.weight, generator=generator)
            nn.init.zeros_(self.project.bias)
        self.encoder.reset_parameters(generator)  # type: ignore[operator]

    def forward(self, history: History) -> Tensor:
        """`[B, D]`: the vector of each row."""
        if self.embedding is not None:
            x_TBD = self.embedding(history.item_TB)
        else:
            assert self.project is not None
            x_TBD = self.project(history.x_TBD) * history.is_item_TB1
        vector_BD: Tensor = self.encoder(x_TBD, history.is_item_TB1.to(x_TBD.dtype))
        return vector_BD


# Features that are one number go from 0 to about this: the logarithm of 50 items, and entropy and
# margin of the scores of some thousand items, in nats.
USUAL_MAXIMUM = {"length": 4.0, "entropy": 8.0, "margin": 5.0}


class StateTrunk(nn.Module):
    """Turns the state after the first blocks into one vector for each row: one hidden layer.

    Args:
        features: what it reads.
        backbone_width: channels of the state.
    """

    def __init__(self, features: tuple[Feature, ...], width: int, backbone_width: int):
        super().__init__()
        self.features = features
        size = sum(backbone_width if feature == "state" else 1 for feature in features)
        self.project = nn.Linear(size, width)

    @property
    def reads_scores(self) -> bool:
        """Whether it reads what the head says about the state."""
        return "entropy" in self.features or "margin" in self.features

    def reset_parameters(self, generator: torch.Generator) -> None:
        """Draws the layer. Without the state, each unit bends at a random point of the usual range.

        With biases of 0 all units would bend where the numbers are 0. Their sum would then be a
        straight line in the length, and depth can be worth most at middle lengths.
        """
        weight_HF = self.project.weight
        nn.init.xavier_uniform_(weight_HF, generator=generator)
        nn.init.zeros_(self.project.bias)
        if "state" not in self.features:
            maximum_F = torch.tensor([USUAL_MAXIMUM[feature] for feature in self.features])
            point_HF = torch.empty_like(weight_HF).uniform_(generator=generator) * maximum_F
            with torch.no_grad():
                self.project.bias.sub_((weight_HF * point_HF).sum(1))

    def forward(self, history: History) -> Tensor:
        """`[B, D]`: the vectors of the last positions."""
        length_B1 = history.is_item_TB1.sum(0)
        return self.hidden(history.x_TBD[-1], length_B1, history.certainty_B2)

    def hidden(
        self, state_ND: Tensor, length_N1: Tensor, certainty_N2: Tensor | None = None
    ) -> Tensor:
        """`[N, D]`: the vectors of states, whose histories have these numbers of items.

        Args:
            certainty_N2: of the states, if `reads_scores`.
        """
        parts = {
            "state": F.layer_norm(state_ND, state_ND.shape[-1:]),
            "length": length_N1.clamp(min=1).log(),
        }
        if certainty_N2 is not None:
            parts["entropy"], parts["margin"] = certainty_N2[:, :1], certainty_N2[:, 1:]
        chosen = [parts[feature].to(state_ND.dtype) for feature in self.features]
        hidden_ND: Tensor = self.project(torch.cat(chosen, dim=-1)).relu()
        return hidden_ND


def build_trunk(
    config: LearnedSection, num_items: int, backbone_width: int
) -> PolicyTrunk | StateTrunk:
    """The trunk of a learned policy, by what it reads: the history, or an early state.

    Raises:
        ValueError: the encoder is unknown.
    """
    if config.reads_after is not None:
        return StateTrunk(config.state_features, config.width, backbone_width)
    return PolicyTrunk(config, num_items, backbone_width)


class KeepHead(nn.Module):
    """A pair of logits for each block, in the order of `decisions.SKIP` and `KEEP`."""

    def __init__(self, width: int, num_blocks: int):
        super().__init__()
        self.linear = nn.Linear(width, 2 * num_blocks)

    def reset_parameters(self, generator: torch.Generator, skip: float, keep: float) -> None:
        """Draws small weights; every block starts with the logits `skip` and `keep`."""
        nn.init.normal_(self.linear.weight, std=0.02, generator=generator)
        with torch.no_grad():
            self.linear.bias.view(-1, 2).copy_(torch.tensor([skip, keep]))

    def forward(self, vector_BD: Tensor) -> Tensor:
        """`[B, L, 2]`: the logits."""
        logits_BL2: Tensor = self.linear(vector_BD).unflatten(-1, (-1, 2))
        return logits_BL2
