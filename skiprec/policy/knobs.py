"""Knobs: the setting of a trained policy that can change without training the policy again.

A knob reads `numbers_RK`, the numbers that the policy computed for some rows. They are P(keep) of
each block (K is L), or the predicted cost of each offered set (K is M). A knob reads no target.
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
    """The setting `name` of a policy. `served` is its value in serving."""

    name: str
    served: float

    @abstractmethod
    def points(self, numbers_RK: Numbers) -> list[OperatingPoint]:
        """Decisions about these rows at several settings, spread over the range of the knob.

        The points are sorted by the number of kept blocks, fewest first.
        """


class ThresholdKnob(Knob):
    """The threshold on P(keep) above which a block is kept; one half in serving."""

    name = "threshold"
    served = 0.5

    def points(self, numbers_RK: Numbers) -> list[OperatingPoint]:
        """See `Knob`. The thresholds are quantiles of P(keep); a P of 1 is above each of them."""
        share_N = np.linspace(0, 1, NUM_POINTS + 2)[1:-1]
        free_N = numbers_RK[numbers_RK < 1]
        thresholds = np.quantile(free_N if len(free_N) else numbers_RK, 1 - share_N).tolist()
        always_RL = numbers_RK >= 1
        return [OperatingPoint(t, always_RL | (numbers_RK > t)) for t in thresholds]
