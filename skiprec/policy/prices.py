"""Choosing among nested sets of blocks by a price, which is in the unit of the costs."""

import numpy as np
import torch
from torch import Tensor


def cheapest(cost_BM: Tensor, size_M: Tensor, price_1: Tensor) -> Tensor:
    """`[B]`: index of the set with the smallest predicted cost + price * (its share of all blocks).

    Among equal sets, the smallest set is chosen.

    Args:
        cost_BM: predicted cost of each set.
        size_M: number of blocks of each set, rising; the last set is all blocks.
        price_1: price of all blocks.
    """
    return (cost_BM.detach() + price_1 * size_M / size_M[-1]).argmin(1)


def price_for(cost_RM: Tensor, size_M: Tensor, keep_frac: float) -> float:
    """The lowest price at which these rows keep at most `keep_frac` of the block calls.

    Rows keep less as the price rises, so bisection finds the price. If even the smallest set is
    larger than `keep_frac`, the result is a price at which every row takes the smallest set.
    """
    low, high = -1.0, 1.0
    most = keep_frac * int(size_M[-1])
    while _mean_size(cost_RM, size_M, low) <= most and low > -1e6:
        low *= 4
    while _mean_size(cost_RM, size_M, high) > most and high < 1e6:
        high *= 4
    for _ in range(60):
        middle = (low + high) / 2
        if _mean_size(cost_RM, size_M, middle) > most:
            low = middle
        else:
            high = middle
    return high


def choices_by_price(
    cost_RM: Tensor, size_M: Tensor, num_points: int
) -> list[tuple[float, Tensor]]:
    """`(price, size_R)` at prices whose kept shares lie between the smallest set and all blocks."""
    shares = shares_between(size_M, num_points + 2)[1:-1]
    prices = [price_for(cost_RM, size_M, share) for share in shares]
    return [(p, size_M[cheapest(cost_RM, size_M, torch.tensor([p]))]) for p in prices]


def shares_between(size_M: Tensor, num: int) -> list[float]:
    """`num` shares of all blocks, from the smallest set to 1, as many between any two neighbours.

    So a nest of 2, 4, 8, …, 64 blocks has as many of them between 2 and 4 as between 32 and 64.
    """
    place_N = np.linspace(0, len(size_M) - 1, num)
    size_N = np.interp(place_N, np.arange(len(size_M)), size_M.numpy())
    shares: list[float] = (size_N / int(size_M[-1])).tolist()
    return shares


def _mean_size(cost_RM: Tensor, size_M: Tensor, price: float) -> float:
    choice_R = cheapest(cost_RM, size_M, cost_RM.new_tensor([price]))
    return float(size_M[choice_R].double().mean())
