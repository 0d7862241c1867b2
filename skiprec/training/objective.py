"""The loss: cross-entropy over the targets of the global batch, plus the terms of the policy.

`Objective` is the module that an engine wraps. Each call of it is a `Pass`.
"""

from functools import partial

import torch
from torch import Tensor, nn

from skiprec import keyed_random
from skiprec.config.run import RunConfig
from skiprec.network import SkipRecNetwork
from skiprec.policy.training import policy_training
from skiprec.ranking import target_ranks
from skiprec.training.losses import draw_negatives, full_softmax, sampled_softmax
from skiprec.training.stochastic_depth import kept_at_random
from skiprec.types import Batch, Execution, History, KeepDecision, Pass

# Names of the entries of a loss pass that the policy's own sums must not take.
OWN_SUMS = ("loss", "cross_entropy", "last_cross_entropy", "keep_L")


class Objective(nn.Module):
    """A network with its loss. The counts that divide the loss are those of the global batch."""

    def __init__(self, network: SkipRecNetwork, config: RunConfig):
        super().__init__()
        self.network = network
        self.config = config
        self.policy_training = policy_training(config, network)

    def forward(self, batch: Batch, pass_: Pass) -> dict[str, Tensor]:
        """The result of one pass, by the kind of `pass_` (see `Pass`).

        A loss pass returns "loss", which is a sum over `batch` divided by counts of the global
        batch. All other entries are sums over the rows of `batch` for the log, without a gradient.
        """
        if pass_.kind == "validate":
            return self._validate(batch)
        history = self.network.embed(batch.input_BT, batch.key_B)
        decision = self.network.decide(history, pass_.progress)
        if pass_.kind == "decide":
            assert decision is not None
            return {name: value for name, value in vars(decision).items() if value is not None}
        if pass_.kind == "statistics":
            assert decision is not None
            return self.policy_training.statistics(decision)
        return self._loss(batch, history, decision, pass_)

    def _loss(
        self, batch: Batch, history: History, decision: KeepDecision | None, pass_: Pass
    ) -> dict[str, Tensor]:
        added: Tensor | float = 0.0
        sums: dict[str, Tensor] = {}
        if decision is not None:
            added, sums = self.policy_training.loss(batch, decision, pass_)
            assert sums.keys().isdisjoint(OWN_SUMS), f"the names {OWN_SUMS} are taken"
        x_TBD = self._encode(history, decision)
        is_scored_TB, target_TB = batch.is_scored_BT.t(), batch.target_BT.t()
        x_ND, target_N = x_TBD[is_scored_TB], target_TB[is_scored_TB]
        cross_entropy = self._cross_entropy(x_ND, target_N, pass_.step)
        assert pass_.num_targets is not None
        loss = cross_entropy / pass_.num_targets + added
        sums["cross_entropy"] = _for_the_log(cross_entropy)
        extra = self.config.loss.last_position_weight
        if extra is not None:
            is_last_B = is_scored_TB[-1]
            last = self._cross_entropy(x_TBD[-1, is_last_B], target_TB[-1, is_last_B], pass_.step)
            loss = loss + extra * last / pass_.num_rows
            sums["last_cross_entropy"] = _for_the_log(last)
        if decision is not None:
            sums["keep_L"] = decision.keep_BL.detach().sum(0)
        return {"loss": loss, **sums}

    def _encode(self, history: History, decision: KeepDecision | None) -> Tensor:
        execution: Execution = self.config.training.execution
        if decision is not None:
            decision = self.policy_training.decision_of_blocks(decision, len(history.x_TBD))
        rate = self.config.model.stochastic_depth
        if decision is None and rate is not None and self.training:
            decision = kept_at_random(history.key_B, rate, self.network.num_blocks)
            execution = "gathered"
        return self.network.encode(history, decision, execution, call_every_block=True)

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
        result = {"rank_B": rank_B, "keep_BL": keep_BL}
        if decision is not None and decision.prob_BL is not None:
            result["prob_BL"] = decision.prob_BL
        return result


def _for_the_log(loss: Tensor) -> Tensor:
    """`loss` in float32 at least. In bf16, sums over passes and steps would be inaccurate."""
    return loss.detach().to(torch.promote_types(loss.dtype, torch.float32))
