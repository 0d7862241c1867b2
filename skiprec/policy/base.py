"""The interface of a policy, which maps histories to keep decisions."""

from abc import ABC, abstractmethod

import torch
from torch import nn

from skiprec.policy.knobs import Knob
from skiprec.types import History, KeepDecision


class PolicyModule(nn.Module, ABC):
    """The base of every policy. `tests/unit/policy` checks this interface for every kind.

    The constructor takes (options, num_items, backbone_width, num_blocks). A learned policy has
    a `trunk`, which is a `PolicyTrunk`, and a `head`; its decision has a `prob_BL` or a `cost_BM`
    that depends on the history; and it has a `knob`.
    """

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
