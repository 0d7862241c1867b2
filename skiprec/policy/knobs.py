"""What can be set anew in a trained policy, without training it again: its knob.

A knob reads what the policy computed for some rows, `numbers_RK`: P(keep) of each block, or the
predicted cost of each offered set. It never reads a target.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

NUM_POINTS = 8

Numbers = NDArray[np.float32]


@dataclass(frozen=True)
class OperatingPoint:
    """The decisions of a policy at one setting of its knob; `keep_RL` is boolean."""

    setting: float
    keep_RL: NDArray[np.bool_]


class Knob(ABC):
    """`name` is used in reports; `served` is the setting in serving."""

    name: str
    served: float

    @abstractmethod
    def points(self, numbers_RK: Numbers) -> list[OperatingPoint]:
        """Decisions about these rows at settings spread over the knob's range, rising in blocks
        kept."""


class ThresholdKnob(Knob):
    """A block is kept where P(keep) is above a threshold, one half in serving."""

    name = "threshold"
    served = 0.5

    def points(self, numbers_RK: Numbers) -> list[OperatingPoint]:
        """See `Knob`; the thresholds are quantiles of all P(keep)."""
        share_P = np.linspace(0, 1, NUM_POINTS + 2)[1:-1]
        thresholds = np.quantile(numbers_RK, 1 - share_P).tolist()
        return [OperatingPoint(threshold, numbers_RK > threshold) for threshold in thresholds]
