"""A supervised policy: predicts what a shallower net costs this user, and buys what is worth it.

The sets of blocks that are offered are nested: the first n blocks, for each n of `nest_sizes`, and
all of them. So one run of the whole backbone shows what each of them would have said, and
the predictor learns from a number for every set and every row, not from a sampled reward.
"""

import torch
from torch import Tensor, nn

from skiprec import keyed_random
from skiprec.policy.priced import PricedPolicy
from skiprec.policy.trunk import PolicyTrunk
from skiprec.policy_config import CostPolicyConfig
from skiprec.types import History, KeepDecision


class CostPolicy(PricedPolicy):
    """`size_M` are the offered numbers of blocks, rising, all of them last; costs are in nats."""

    size_M: Tensor

    def __init__(
        self, config: CostPolicyConfig, num_items: int, backbone_width: int, num_blocks: int
    ):
        super().__init__()
        self.config = config
        self.num_blocks = num_blocks
        self.trunk = PolicyTrunk(config, num_items, backbone_width)
        self.sizes = tuple(sorted({*config.nest_sizes, num_blocks}))
        self.head = nn.Linear(config.width, len(self.sizes))
        self.register_buffer("size_M", torch.tensor(self.sizes), persistent=False)

    def reset_parameters(self, generator: torch.Generator) -> None:
        """Small weights: every set is first thought to cost about nothing."""
        self.trunk.reset_parameters(generator)
        nn.init.normal_(self.head.weight, std=0.02, generator=generator)
        nn.init.zeros_(self.head.bias)

    def forward(self, history: History, progress: float | None) -> KeepDecision:
        """See `registry.py`. `cost_BM` is what each set is predicted to cost."""
        # All blocks cost nothing against themselves, so the prediction is a difference to theirs.
        said_BM: Tensor = self.head(self.trunk(history)).float()
        cost_BM = said_BM - said_BM[:, -1:]
        choice_B = cheapest(cost_BM, self.size_M, self.price_1)
        if progress is not None:
            coin_B2 = keyed_random.uniform(history.key_B, "cost-policy", 2)
            any_B = (coin_B2[:, 1] * len(self.sizes)).long()
            choice_B = torch.where(coin_B2[:, 0] < self.config.explore_frac, any_B, choice_B)
        block_L = torch.arange(self.num_blocks, device=cost_BM.device)
        keep_BL = (block_L < self.size_M[choice_B, None]).float()
        return KeepDecision(keep_BL, None, cost_BM)


def cheapest(cost_BM: Tensor, size_M: Tensor, price_1: Tensor) -> Tensor:
    """`[B]`: the set with the least predicted cost + price * its share of all blocks.

    Of equals the smaller one.
    """
    return (cost_BM.detach() + price_1 * size_M / size_M[-1]).argmin(1)


def price_for(cost_UM: Tensor, size_M: Tensor, keep_frac: float) -> float:
    """The lowest price at which these rows keep at most `keep_frac` of the block calls.

    A row keeps less as the price rises, so halving an interval finds it. If even the smallest set
    keeps more, the price at which every row takes it.
    """
    low, high = -1.0, 1.0
    while _kept(cost_UM, size_M, low) <= keep_frac and low > -1e6:
        low *= 4
    while _kept(cost_UM, size_M, high) > keep_frac and high < 1e6:
        high *= 4
    for _ in range(60):
        middle = (low + high) / 2
        if _kept(cost_UM, size_M, middle) > keep_frac:
            low = middle
        else:
            high = middle
    return high


def _kept(cost_UM: Tensor, size_M: Tensor, price: float) -> float:
    choice_U = cheapest(cost_UM, size_M, cost_UM.new_tensor([price]))
    return float((size_M[choice_U] / size_M[-1]).double().mean())
