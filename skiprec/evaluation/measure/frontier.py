"""The frontier of fixed sets: the best that one decision for everyone reaches at each size.

A policy that is worth its name beats it at its own mean number of blocks, not one set near it. The
sizes next to that mean need not be the best ones to mix: a net that was trained at some sizes only
is bad in between. So a second control mixes whichever two sizes are best, its concave hull.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

MAX_SIZES = 16

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Bracket:
    """A coin between two sizes, whose mean size is the one asked for."""

    below: int
    above: int
    weight: float

    def mix(self, below_R: Floats, above_R: Floats) -> Floats:
        """What the coin is expected to give each row; `weight` is the chance of `above`."""
        return (1 - self.weight) * below_R + self.weight * above_R


def frontier_sizes(num_blocks: int, mean_kept: float) -> tuple[int, ...]:
    """The sizes below `num_blocks` that are scored, rising; all blocks are an arm of their own.

    All of them; of more than `MAX_SIZES`, that many at equal distances from 1 to all but one, and
    the two around `mean_kept`. Size 0 is the embedding alone: it costs nothing to score, and with
    it every mean has a size on both sides.
    """
    largest = num_blocks - 1
    if largest <= MAX_SIZES:
        return tuple(range(num_blocks))
    spread = np.linspace(1, largest, MAX_SIZES).round().astype(int).tolist()
    around = {min(int(mean_kept), largest), min(int(mean_kept) + 1, largest)}
    return tuple(sorted({0, *spread, *around}))


def bracket(sizes: Sequence[int], mean_kept: float) -> Bracket:
    """The sizes on both sides of a mean; with equality, that size alone.

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
    """The sizes, rising, whose coins reach the most at every mean: the upper concave hull.

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
