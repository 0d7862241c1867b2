"""What is minimised: L = CE over the global batch's targets + budget of the policy.

`Objective` is the one module that an engine wraps; each of its calls is a `Pass`.
"""

from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn

from skiprec import keyed_random
from skiprec.config import RunConfig
from skiprec.network import SkipRecNetwork
from skiprec.ranking import target_ranks
from skiprec.training.losses import draw_negatives, full_softmax, sampled_softmax
from skiprec.types import Batch, Execution, KeepDecision


@dataclass(frozen=True)
class Pass:
    """What one forward pass is for, and what it must know of the global batch.

    loss: the loss of some rows. statistics: only their keep decisions, summed. validate: the ranks
    of the targets at the last position, with the decisions of serving.
    """

    kind: Literal["loss", "statistics", "validate"]
    step: int = 0
    temperature: float | None = None
    num_targets: Tensor | None = None
    num_rows: int = 1
    keep_frac: Tensor | None = None


class Objective(nn.Module):
    """A network with its loss; batch statistics are those of the global batch (see `Pass`)."""

    def __init__(self, network: SkipRecNetwork, config: RunConfig):
        super().__init__()
        self.network = network
        self.config = config

    @property
    def has_budget(self) -> bool:
        """Whether the loss needs the mean decision of the global batch before it starts."""
        return self.config.policy.budget_weight is not None

    def forward(self, batch: Batch, what: Pass) -> dict[str, Tensor]:
        """See `Pass`. Losses are sums over `batch` divided by counts of the global batch."""
        if what.kind == "validate":
            return self._validate(batch)
        history = self.network.embed(batch.input_BT, batch.key_B)
        decision = self.network.decide(history, what.temperature)
        if what.kind == "statistics":
            assert decision is not None
            return {"keep_sum": decision.keep_BL.sum()}
        x_TBD = self.network.encode(
            history, decision, self.config.training.execution, call_every_block=True
        )
        is_scored_TB = batch.is_scored_BT.t()
        cross_entropy = self._cross_entropy(
            x_TBD[is_scored_TB], batch.target_BT.t()[is_scored_TB], what.step
        )
        assert what.num_targets is not None
        loss = cross_entropy / what.num_targets
        sums = {"cross_entropy": cross_entropy.detach()}
        if decision is not None:
            sums["keep_L"] = decision.keep_BL.detach().sum(0)
        if self.has_budget:
            assert decision is not None
            loss = loss + self._budget(decision, what)
        return {"loss": loss, **sums}

    def _cross_entropy(self, x_ND: Tensor, target_N: Tensor, step: int) -> Tensor:
        loss = self.config.loss
        if loss.kind == "full":
            return self.network.head(x_ND, partial(full_softmax, target_N=target_N))  # type: ignore[no-any-return]
        assert loss.num_negatives is not None
        key = keyed_random.mix(self.config.training.seed, keyed_random.stream_id("step"), step)
        negative_S = draw_negatives(
            key, loss.num_negatives, self.network.num_items, target_N.device
        )
        use = partial(sampled_softmax, target_N=target_N, negative_S=negative_S)
        return self.network.head(x_ND, use)  # type: ignore[no-any-return]

    def _budget(self, decision: KeepDecision, what: Pass) -> Tensor:
        """weight * (k - target)^2 with k the mean decision of the global batch (ConvNet-AIG).

        k is known beforehand, so this term is linear in the rows at hand: its gradient, summed
        over passes and ranks, is the exact one of the square at any world size.
        """
        policy = self.config.policy
        assert what.keep_frac is not None
        assert policy.budget_weight is not None
        assert policy.target_keep_frac is not None
        slope = 2 * policy.budget_weight * (what.keep_frac - policy.target_keep_frac)
        return slope * decision.keep_BL.sum() / (what.num_rows * self.network.num_blocks)

    @torch.no_grad()
    def _validate(self, batch: Batch) -> dict[str, Tensor]:
        network = self.network
        history = network.embed(batch.input_BT, batch.key_B)
        decision = network.decide(history)
        execution: Execution = "dense" if decision is None else "gathered"
        x_TBD = network.encode(history, decision, execution, call_every_block=True)
        rank_B = network.head(x_TBD[-1], partial(target_ranks, target_B=batch.target_BT[:, -1]))
        keep_BL = (
            torch.ones(len(rank_B), network.num_blocks, device=rank_B.device)
            if decision is None
            else decision.keep_BL
        )
        out = {"rank_B": rank_B, "keep_BL": keep_BL}
        if decision is not None and decision.prob_BL is not None:
            out["prob_BL"] = decision.prob_BL
        return out
