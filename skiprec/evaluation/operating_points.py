"""The learned curve: a trained policy at other settings of what can be turned while it serves.

Where to look is chosen from the policy's own numbers on the evaluated rows; no target is read.
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from skiprec.evaluation.arms import Arms, Decided, Keep
from skiprec.policy.cost import CostPolicy, cheapest, price_for

NUM_POINTS = 8


@dataclass(frozen=True)
class Knob:
    """What is turned: its name, where it stands in serving, and the settings of the curve."""

    name: str
    served: float
    settings: tuple[float, ...]


def operating_points(policy: nn.Module, decided: Decided) -> tuple[Knob | None, Arms]:
    """The knob, and an arm "learned_<i>" for each of its settings, rising in blocks kept.

    The price of a policy that predicts costs; of one that predicts P(keep) the threshold, which is
    a half in serving. A control has none. Settings that decide alike are one.
    """
    if decided.knob_RK is None:
        return None, {}
    if isinstance(policy, CostPolicy):
        name, served = "price", float(policy.price_1)
        cost_RM, size_M = torch.from_numpy(decided.knob_RK), policy.size_M.cpu()
        found = [
            (price, _first_blocks(size_R.numpy(), policy.num_blocks))
            for price, size_R in choices_by_price(cost_RM, size_M)
        ]
    else:
        name, served = "threshold", 0.5
        share_P = np.linspace(0, 1, NUM_POINTS + 2)[1:-1]
        thresholds = np.quantile(decided.knob_RK, 1 - share_P).tolist()
        found = [(threshold, decided.knob_RK > threshold) for threshold in thresholds]
    differing = [
        point
        for index, point in enumerate(found)
        if index == 0 or not np.array_equal(point[1], found[index - 1][1])
    ]
    knob = Knob(name, served, tuple(setting for setting, _ in differing))
    return knob, {f"learned_{i:02d}": keep_RL for i, (_, keep_RL) in enumerate(differing)}


def choices_by_price(cost_RM: Tensor, size_M: Tensor) -> list[tuple[float, Tensor]]:
    """`(price, size_R)` at prices that spread the kept share over the range of the nest.

    Args:
        cost_RM: predicted, nats.
        size_M: blocks of each set, rising, all of them last.
    """
    smallest = float(size_M[0] / size_M[-1])
    shares = np.linspace(smallest, 1, NUM_POINTS + 2)[1:-1]
    prices = [price_for(cost_RM, size_M, share) for share in shares.tolist()]
    return [(p, size_M[cheapest(cost_RM, size_M, torch.tensor([p]))]) for p in prices]


def _first_blocks(size_R: NDArray[np.int64], num_blocks: int) -> Keep:
    keep_RL: Keep = np.arange(num_blocks) < size_R[:, None]
    return keep_RL
