"""The values that pass between the parts, and the one legend of shape suffixes.

B rows (one row is one window of one user)   W items in a row        T = W - 1 positions
D width                                      L residual blocks       V items of the catalogue
N positions that have a target               S sampled negatives     K entries of a top-k list
M nested sets of blocks

Sequences run time-major, `x_TBD`: a causal convolution is then a sum of products over contiguous
shifted views (see `models/nextitnet.py`). Rows are left-padded with item 0.
"""

from dataclasses import dataclass
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
