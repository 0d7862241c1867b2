"""The price of a block: a number that training moves without a gradient."""

from collections.abc import Callable
from typing import Self

import torch
from torch import Tensor, nn


class PricedPolicy(nn.Module):
    """A policy with a price, in nats for all blocks.

    The price stays float32 in a bfloat16 network, which would round its small moves away.
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
