"""The interface of a policy, which maps histories to keep decisions."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn

from skiprec.policy.knobs import Knob
from skiprec.types import History, KeepDecision


@dataclass(frozen=True)
class LinearRule:
    """How the output of a policy's linear head becomes its decision in serving.

    An executor that is not written in PyTorch decides by this rule.

    | kind | the output is | a block is kept if |
    |---|---|---|
    | `two_logits` | (skip, keep) of each block | keep - skip is above `setting` |
    | `sigmoids` | the same | the difference of their sigmoids is above `setting` |
    | `cheapest_set` | a cost of each offered set | it is among the first n, for the cheapest n |

    Args:
        setting: of `cheapest_set` the price of all blocks, in nats.
        set_sizes: the offered n of `cheapest_set`, rising; the last one is all blocks.
    """

    kind: Literal["two_logits", "sigmoids", "cheapest_set"]
    setting: float = 0.0
    set_sizes: tuple[int, ...] = ()


class PolicyModule(nn.Module, ABC):
    """The base of every policy. `tests/unit/policy` checks this interface for every kind.

    The constructor takes (options, num_items, backbone_width, num_blocks). A learned policy has
    a `trunk`, from `build_trunk`, and a `head`; its decision has a `prob_BL` or a `cost_BM`
    that depends on the history; and it has a `knob`. If it decides by a `LinearRule`, it says so.
    """

    @property
    def reads_after(self) -> int | None:
        """How many first blocks every row runs before the policy reads their state."""
        return getattr(getattr(self, "options", None), "reads_after", None)

    @property
    def reads_scores(self) -> bool:
        """Whether the policy also reads what the head says about that state."""
        return bool(getattr(getattr(self, "trunk", None), "reads_scores", False))

    def reset_parameters(self, generator: torch.Generator) -> None:
        """Draws all weights from `generator`; a policy without weights draws nothing."""

    @abstractmethod
    def forward(self, history: History, progress: float | None) -> KeepDecision:
        """The keep decision of each row, from the history alone.

        Args:
            progress: of the training, from 0 to 1; a policy may then sample, by the keys of the
                rows. None: the decision of serving, which is always the same for the same row.
        """

    @property
    def knob(self) -> Knob | None:
        """The setting that a report varies to draw the learned curve; None for a control."""
        return None

    @property
    def linear_rule(self) -> LinearRule | None:
        """How the head's output becomes the decision of serving; None if by another rule."""
        return None
