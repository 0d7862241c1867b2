"""The values that pass between the parts of SkipRec, and the legend of shape suffixes.

The capital letters and digits at the end of a name are the dimensions of its value, in order:
`x_TBD` has T times B times D elements. A digit is a dimension of that size.

    A  arms of an evaluation
    B  rows of a batch (a row is one window of one user)
    C  channels of a head, or columns of a matrix of values
    D  width
    E  output width of a product
    F  filters, or features of a regression
    G  groups of items
    H  heads, or hidden units of NFM
    I  some items of the catalogue
    K  entries of a list for each row, such as its top-k items
    L  residual blocks
    M  offered sets of blocks
    N  entries of any flat list, such as positions with a target, decisions, resamples
    P  places along time other than T: taps of a kernel, entries of a table of positions
    R  rows of a split or of an evaluation
    S  sampled negatives, or sampled sets of blocks
    T  positions that the network reads, W - 1
    U  users
    V  all items of the catalogue
    W  items in a row

Checkpoints store parameters and buffers by name, so these names never change. Three of them differ
from the legend: in `weight_KDE` K is the taps of the kernel, in `vertical_LF` L is the length of
Caser's image, and in `weight_CF` C is the channels of all items under a filter. Modules and
parameters that come in a sequence are numbered: `norm_1`, `norm_2`.

Sequences are time-major, `x_TBD`, so that a causal convolution is a sum of products over contiguous
shifted views (see `layers.py`). Rows are left-padded with item 0.
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
    """The windows of some rows. `key_B` seeds each row's random numbers.

    In training a row's key is a function of the seed, the epoch and the row's place in the order of
    that epoch alone. In validation and evaluation it is a function of the row's number.
    """

    items_BW: Tensor
    key_B: Tensor
    times_BW: Tensor | None = None  # milliseconds since 1970, 0 at padding; None without times
    num_scored_B: Tensor | None = None  # only so many of the newest items count; None: all

    @property
    def input_BT(self) -> Tensor:
        """The items that the network reads: all but the last of each row."""
        return self.items_BW[:, :-1]

    @property
    def target_BT(self) -> Tensor:
        """The next item at each position. Evaluation uses the last column alone."""
        return self.items_BW[:, 1:]

    @property
    def is_scored_BT(self) -> Tensor:
        """Positions that count in the loss: input and target are both real items.

        The target must also be among the row's `num_scored_B` newest items.
        """
        is_real_BT = (self.input_BT != PADDING) & (self.target_BT != PADDING)
        if self.num_scored_B is None:
            return is_real_BT
        num_positions = is_real_BT.shape[1]
        age_T = num_positions - torch.arange(num_positions, device=is_real_BT.device)
        return is_real_BT & (age_T <= self.num_scored_B[:, None])

    def to(self, device: torch.device) -> "Batch":
        """The same rows on `device`."""
        optional = [
            None if values is None else values.to(device)
            for values in (self.times_BW, self.num_scored_B)
        ]
        return Batch(self.items_BW.to(device), self.key_B.to(device), *optional)


@dataclass(frozen=True)
class History:
    """Everything a policy may read: the embedded inputs of the rows.

    `x_TBD` is the state before any block has run; a policy with `policy.reads_after` gets the state
    after its first blocks, and if it asks for them the `certainty_B2` of the last positions
    (`skiprec.ranking.certainty`). `time_TBC` is what a backbone with `model.time` reads of the
    times, by its own definition.
    """

    item_TB: Tensor
    x_TBD: Tensor
    is_item_TB1: Tensor
    key_B: Tensor
    certainty_B2: Tensor | None = None
    time_TBC: Tensor | None = None

    @property
    def context_TBC(self) -> Tensor:
        """What every block reads beside the state: where items are, then the times, if any."""
        if self.time_TBC is None:
            return self.is_item_TB1
        return torch.cat([self.is_item_TB1, self.time_TBC], dim=-1)

    def select_rows(self, row_N: Tensor) -> "History":
        """The rows with these numbers, in this order; a number may repeat."""
        chosen = {
            name: value.index_select(0 if name.endswith("_B") or name.endswith("_B2") else 1, row_N)
            for name, value in vars(self).items()
            if value is not None
        }
        return History(**chosen)


@dataclass(frozen=True)
class EarlyState:
    """The state after the first `depth` blocks, which every row keeps.

    Args:
        passed: the states at the exits before, for a network whose exits add up; else empty.
    """

    depth: int
    x_TBD: Tensor
    passed: tuple[Tensor, ...] = ()


@dataclass(frozen=True)
class KeepDecision:
    """Which blocks run for each row.

    Args:
        keep_BL: 1.0 where a block is kept, else 0.0; exactly so in the forward pass.
        prob_BL: P(keep). None for a policy that computes no probabilities.
        cost_BM: predicted cost of each offered set of blocks, in nats. None for a policy that
            predicts no costs.
        early: the state that the policy has read, so that the first blocks need not run again.
            None for a policy that reads the embedded inputs.
    """

    keep_BL: Tensor
    prob_BL: Tensor | None
    cost_BM: Tensor | None = None
    early: EarlyState | None = None

    def as_numbers(self) -> dict[str, Tensor]:
        """The fields with one entry for each row, by name, as far as they are there."""
        fields = {"keep_BL": self.keep_BL, "prob_BL": self.prob_BL, "cost_BM": self.cost_BM}
        return {name: value for name, value in fields.items() if value is not None}


@dataclass(frozen=True)
class Pass:
    """What one call of `Objective` is for, and the facts about the global batch that it needs.

    | kind | result |
    |---|---|
    | `loss` | the loss of some rows |
    | `statistics` | sums of their keep decisions |
    | `validate` | ranks of their targets at the last position, with the decisions of serving |
    | `decide` | the decisions of serving |

    Args:
        step: of the optimizer, counted from 0.
        progress: of the training, from 0 to 1. None where the policy decides as in serving, so in
            `validate` and `decide`.
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
