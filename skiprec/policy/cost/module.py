"""A supervised policy that predicts the cost of running fewer blocks, for each user.

The offered sets of blocks are nested: the first n blocks, for each n in `nest_sizes`, and all
blocks. One run of the whole backbone therefore gives the result of every set, and the predictor
learns from one number for each set and row instead of a sampled reward.
"""

import torch
from torch import Tensor, nn

from skiprec import keyed_random
from skiprec.policy.base import LinearRule
from skiprec.policy.cost.options import Options
from skiprec.policy.priced import PricedPolicy, PriceKnob
from skiprec.policy.prices import cheapest
from skiprec.policy.trunk import build_trunk
from skiprec.types import History, KeepDecision


class Policy(PricedPolicy):
    """Keeps the set with the smallest predicted cost plus price.

    `size_M` holds the numbers of blocks of the offered sets, rising; the last set is all blocks.
    """

    size_M: Tensor

    def __init__(self, options: Options, num_items: int, backbone_width: int, num_blocks: int):
        super().__init__()
        self.options = options
        self.num_blocks = num_blocks
        self.trunk = build_trunk(options, num_items, backbone_width)
        self.sizes = tuple(sorted({*options.nest_sizes, num_blocks}))
        self.head = nn.Linear(options.width, len(self.sizes))
        self.register_buffer("size_M", torch.tensor(self.sizes), persistent=False)

    def reset_parameters(self, generator: torch.Generator) -> None:
        """Draws small weights, so that every predicted cost starts near zero."""
        self.trunk.reset_parameters(generator)
        nn.init.normal_(self.head.weight, std=0.02, generator=generator)
        nn.init.zeros_(self.head.bias)

    def forward(self, history: History, progress: float | None) -> KeepDecision:
        """See `PolicyModule`. In training, a row runs a random set with P = `explore_frac`."""
        cost_BM = self.costs(self.trunk(history))
        choice_B = cheapest(cost_BM, self.size_M, self.price_1)
        if progress is not None:
            coin_B2 = keyed_random.uniform(history.key_B, "cost-policy", 2)
            random_B = (coin_B2[:, 1] * len(self.sizes)).long()
            choice_B = torch.where(coin_B2[:, 0] < self.options.explore_frac, random_B, choice_B)
        block_L = torch.arange(self.num_blocks, device=cost_BM.device)
        keep_BL = (block_L < self.size_M[choice_B, None]).float()
        return KeepDecision(keep_BL, None, cost_BM)

    def costs(self, vector_ND: Tensor) -> Tensor:
        """`[N, M]`: the predicted cost of each offered set, from vectors of the trunk.

        Costs are relative to the set of all blocks, so the predicted cost of that set is zero.
        """
        output_NM: Tensor = self.head(vector_ND).float()
        return output_NM - output_NM[:, -1:]

    @property
    def linear_rule(self) -> LinearRule:
        """See `PolicyModule`."""
        return LinearRule("cheapest_set", float(self.price_1), self.sizes)

    @property
    def knob(self) -> PriceKnob:
        """The price of all blocks."""
        return PriceKnob(self, self.size_M)
