"""Policies with a price, a number that training changes without a gradient."""

from collections.abc import Callable
from typing import Self

import numpy as np
import torch
from torch import Tensor

from skiprec.policy.base import PolicyModule
from skiprec.policy.knobs import NUM_POINTS, Knob, Numbers, OperatingPoint
from skiprec.policy.prices import choices_by_price, price_for


class PricedPolicy(PolicyModule):
    """A policy that compares costs with `price_1`, the price of keeping all blocks, in nats.

    The price stays float32 in a bfloat16 network, because bfloat16 would round its small changes to
    nothing.
    """

    price_1: Tensor

    def __init__(self, first_price: float = 0.0) -> None:
        super().__init__()
        self.register_buffer("price_1", torch.full((1,), first_price))

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        price_1 = self.price_1
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        self.price_1 = price_1.to(self.price_1.device)
        return self


class PriceKnob(Knob):
    """The price of a policy that offers nested sets of blocks: the first n blocks, for several n.

    Args:
        policy: the policy whose price is read and set.
        size_M: number of blocks of each offered set, rising; the last set is all blocks.
    """

    name = "price"

    def __init__(self, policy: PricedPolicy, size_M: Tensor):
        self.policy, self.size_M = policy, size_M.cpu()
        self.served = float(policy.price_1)

    def points(self, numbers_RK: Numbers) -> list[OperatingPoint]:
        """See `Knob`. Between neighbouring sets there are as many points as between others."""
        block_L = np.arange(int(self.size_M[-1]))
        return [
            OperatingPoint(price, block_L < size_R.numpy()[:, None])
            for price, size_R in choices_by_price(
                torch.from_numpy(numbers_RK), self.size_M, NUM_POINTS
            )
        ]

    def setting_for(self, numbers_RK: Numbers, keep_frac: float) -> float:
        """The lowest price at which these rows keep at most `keep_frac` of the block calls."""
        return price_for(torch.from_numpy(numbers_RK), self.size_M, keep_frac)

    def turn(self, setting: float) -> None:
        """Sets the price of the policy to `setting`."""
        self.policy.price_1.fill_(setting)
