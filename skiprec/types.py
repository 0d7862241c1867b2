"""The values that pass between the parts, and the one legend of shape suffixes.

B rows (one row is one window of one user)   W items in a row        T = W - 1 positions
D width                                      L residual blocks       V items of the catalogue
N positions that have a target               S sampled negatives     K entries of a top-k list
M nested sets of blocks

Sequences run time-major, `x_TBD`: a causal convolution is then a sum of products over contiguous
shifted views (see `models/nextitnet.py`). Rows are left-padded with item 0.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

Execution = Literal["dense", "masked", "gathered"]
PADDING = 0


@dataclass(frozen=True)
class Batch:
    """Some rows. The key of a row is a function of (seed, epoch, global sample index) alone."""

    items_BW: Tensor
    key_B: Tensor

    @property
    def input_BT(self) -> Tensor:
        """What the network reads."""
        return self.items_BW[:, :-1]

    @property
    def target_BT(self) -> Tensor:
        """The next item at each position; the last column is the target of evaluation."""
        return self.items_BW[:, 1:]

    @property
    def is_scored_BT(self) -> Tensor:
        """Positions that count in the loss: a real item in, a real item to come."""
        return (self.input_BT != PADDING) & (self.target_BT != PADDING)

    def to(self, device: torch.device) -> "Batch":
        """The same rows on `device`."""
        return Batch(self.items_BW.to(device), self.key_B.to(device))


@dataclass(frozen=True)
class History:
    """All that a policy may read: the rows' inputs, embedded, before any block has run."""

    item_TB: Tensor
    x_TBD: Tensor
    is_item_TB1: Tensor
    key_B: Tensor


@dataclass(frozen=True)
class KeepDecision:
    """`keep_BL` is exactly 0.0 or 1.0 going forward; `prob_BL` is P(keep), None for a control.

    `cost_BM`, of the policy that predicts costs: nats for each of its M sets of blocks.
    """

    keep_BL: Tensor
    prob_BL: Tensor | None
    cost_BM: Tensor | None = None


@dataclass(frozen=True)
class Pass:
    """The purpose of one forward pass, and what it must know about the global batch.

    loss: the loss of some rows. statistics: sums of their keep decisions. validate: the ranks of
    the targets at the last position, with the decisions of serving. decide: those decisions.

    Args:
        step: of the optimizer, counted from 0.
        progress: of training, from 0 to 1; None where decisions are those of serving.
        num_targets: scored positions of the global batch.
        num_rows: rows of the global batch.
        statistics: sums over the global batch, by the names of `PolicyTraining.statistics`.
    """

    kind: Literal["loss", "statistics", "validate", "decide"]
    step: int = 0
    progress: float | None = None
    num_targets: Tensor | None = None
    num_rows: int = 1
    statistics: Mapping[str, Tensor] = field(default_factory=dict)

    @property
    def turns_dropout_off(self) -> bool:
        """Whether the network computes as in serving."""
        return self.kind in ("validate", "decide")
