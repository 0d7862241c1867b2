"""The frontier of fixed sets: at each size, the set of the blocks that are kept most, for everyone.

A personal policy is compared with the frontier at its own mean number of blocks, not with one set
near it. The sizes next to this mean need not be the best ones to mix: a network that was trained at
some sizes only is bad in between. A second control, the concave hull of the frontier, therefore
mixes the two sizes that together reach most.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

MAX_SIZES = 16

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Bracket:
    """A coin between two sizes. Its mean size is the one that was given to `bracket`."""

    below: int
    above: int
    weight: float

    def mix(self, below_R: Floats, above_R: Floats) -> Floats:
        """The expected value of each row; `weight` is the probability of the size `above`."""
        return (1 - self.weight) * below_R + self.weight * above_R


def frontier_sizes(num_blocks: int, mean_kept: float) -> tuple[int, ...]:
    """The sizes below `num_blocks` that are scored, rising; all blocks are an arm of their own.

    All sizes are scored unless there are more than `MAX_SIZES`. Then `MAX_SIZES` of them are taken
    at equal distances from 1 to all blocks but one, and the two around `mean_kept`. Size 0, the
    embedding alone, costs nothing to score and ensures that every mean has a size on both sides.
    """
    largest = num_blocks - 1
    if largest <= MAX_SIZES:
        return tuple(range(num_blocks))
    spread = np.linspace(1, largest, MAX_SIZES).round().astype(int).tolist()
    around = {min(int(mean_kept), largest), min(int(mean_kept) + 1, largest)}
    return tuple(sorted({0, *spread, *around}))


def bracket(sizes: Sequence[int], mean_kept: float) -> Bracket:
    """The coin between the sizes on both sides of a mean; a mean equal to a size is this size.

    Raises:
        ValueError: the mean lies outside of the sizes.
    """
    if not min(sizes) <= mean_kept <= max(sizes):
        raise ValueError(
            f"a mean of {mean_kept} blocks lies outside of the scored sizes {list(sizes)}"
        )
    below = max(size for size in sizes if size <= mean_kept)
    above = min(size for size in sizes if size >= mean_kept)
    weight = 0.0 if above == below else (mean_kept - below) / (above - below)
    return Bracket(below, above, weight)


def hull_sizes(value_of: Mapping[int, float]) -> list[int]:
    """The sizes, rising, whose coins reach most at every mean: the upper concave hull.

    Args:
        value_of: the accuracy of each size.
    """
    hull: list[int] = []
    for size in sorted(value_of):
        while len(hull) > 1 and not _bends_down(value_of, hull[-2], hull[-1], size):
            hull.pop()
        hull.append(size)
    return hull


def _bends_down(value_of: Mapping[int, float], first: int, middle: int, last: int) -> bool:
    rise_before = (value_of[middle] - value_of[first]) / (middle - first)
    rise_after = (value_of[last] - value_of[middle]) / (last - middle)
    return rise_before > rise_after
