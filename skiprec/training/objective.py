"""The loss: cross-entropy over the targets of the global batch, plus the terms of the policy.

`Objective` is the module that an engine wraps. Each call of it is a `Pass`.
"""

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from skiprec import keyed_random
from skiprec.config.run import RunConfig
from skiprec.network import SkipRecNetwork
from skiprec.policy.training import policy_training
from skiprec.ranking import target_ranks
from skiprec.training.exits import (
    are_trained,
    drawn_exits,
    drawn_positions,
    full_softmax_of_exits,
    sampled_softmax_of_exits,
    share_of_positions,
    terms_of,
)
from skiprec.training.losses import Negatives, draw_negatives, full_softmax, sampled_softmax
from skiprec.training.stochastic_depth import kept_at_random
from skiprec.types import Batch, Execution, History, KeepDecision, Pass

# Before the depth of an exit: the name of the ranks there in the result of a validation pass.
AT_DEPTH = "rank_B/"
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
        history = self.network.embed_batch(batch)
        decision = self.network.decide(history, pass_.progress)
        if pass_.kind == "decide":
            assert decision is not None
            return decision.as_numbers()
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
        is_scored_TB = batch.is_scored_BT.t()
        if self._trains_exits(decision, pass_):
            x_TBD, of_exits = self._states_and_loss_of_exits(batch, history, pass_)
            added = added + of_exits
            sums["exit_loss"] = _for_the_log(of_exits) * pass_.num_rows
        else:
            x_TBD = self._encode(history, decision)
        cross_entropy = self._cross_entropy(x_TBD, batch, is_scored_TB, pass_.step)
        assert pass_.num_targets is not None
        loss = cross_entropy / pass_.num_targets + added
        sums["cross_entropy"] = _for_the_log(cross_entropy)
        extra = self.config.loss.last_position_weight
        if extra is not None:
            is_last_TB = torch.zeros_like(is_scored_TB)
            is_last_TB[-1] = is_scored_TB[-1]
            last = self._cross_entropy(x_TBD, batch, is_last_TB, pass_.step)
            loss = loss + extra * last / pass_.num_rows
            sums["last_cross_entropy"] = _for_the_log(last)
        if decision is not None:
            sums["keep_L"] = decision.keep_BL.detach().sum(0)
        return {"loss": loss, **sums}

    def _trains_exits(self, decision: KeepDecision | None, pass_: Pass) -> bool:
        if decision is not None or len(self.config.model.exits or ()) < 2:
            return False
        assert pass_.progress is not None
        return are_trained(self.config.loss, pass_.progress)

    def _encode(self, history: History, decision: KeepDecision | None) -> Tensor:
        execution: Execution = self.config.training.execution
        if decision is not None:
            decision = self.policy_training.decision_of_blocks(decision, len(history.x_TBD))
        else:
            decision = self._left_out_at_random(history)
            execution = "dense" if decision is None else "gathered"
            if decision is not None and self.network.exits is not None:
                # A row whose last blocks are left out still leaves at the last exit.
                return self.network.states(history, decision, (self.network.num_blocks,))[0]
        return self.network.encode(history, decision, execution, call_every_block=True)

    def _left_out_at_random(self, history: History) -> KeepDecision | None:
        rate = self.config.model.stochastic_depth
        if rate is None or not self.training:
            return None
        return kept_at_random(history.key_B, rate, self.network.num_blocks)

    def _states_and_loss_of_exits(
        self, batch: Batch, history: History, pass_: Pass
    ) -> tuple[Tensor, Tensor]:
        """The states at the last exit, and the loss of the shallower ones."""
        loss, depths = self.config.loss, self.config.model.exits
        assert depths is not None
        exits = drawn_exits(len(depths), self._step_key(pass_.step), loss)
        # The mean of all exits needs all of them.
        others = set(range(len(depths) - 1)) - set(exits) if loss.teacher == "mean" else ()
        sizes = tuple(depths[exit_] for exit_ in (*exits, *others, len(depths) - 1))
        left_out = self._left_out_at_random(history)
        x_MTBD = self.network.states(history, left_out, sizes)
        teacher_TBD = x_MTBD.mean(0) if loss.teacher == "mean" else x_MTBD[-1]
        is_drawn_BT = drawn_positions(batch.key_B, batch.input_BT.shape[1], loss)
        is_used_TB = (batch.is_scored_BT & is_drawn_BT).t()
        target_N = batch.target_BT.t()[is_used_TB]
        x_ND = torch.cat([x[is_used_TB] for x in (teacher_TBD, *x_MTBD[: len(exits)])])
        assert pass_.progress is not None
        assert pass_.num_targets is not None
        given: dict[str, Any] = {
            "num_exits": len(exits),
            "target_N": target_N,
            "terms": terms_of(loss, pass_.progress),
        }
        use = partial(full_softmax_of_exits, **given)
        if loss.kind == "sampled":
            negatives = self._negatives(batch.key_B, is_used_TB, pass_.step)
            use = partial(sampled_softmax_of_exits, negatives=negatives, **given)
        of_exits: Tensor = self.network.head(x_ND, use)
        return x_MTBD[-1], of_exits / (pass_.num_targets * share_of_positions(loss))

    def _step_key(self, step: int) -> int:
        return keyed_random.mix(self.config.training.seed, keyed_random.stream_id("step"), step)

    def _negatives(self, key_B: Tensor, is_used_TB: Tensor, step: int) -> Negatives:
        """The negatives of a step, and which of their sets each used position takes."""
        loss = self.config.loss
        num, num_sets, is_uniform = loss.num_negatives, loss.num_sets, loss.negatives == "uniform"
        assert num is not None
        key, device = self._step_key(step), key_B.device
        item_S = draw_negatives(key, num_sets * num, self.network.num_items, device, is_uniform)
        set_N = None
        if num_sets > 1:
            u_BT = keyed_random.uniform(key_B, "negative-set", len(is_used_TB))
            set_N = (u_BT.t()[is_used_TB] * num_sets).long()
        return Negatives(item_S.view(num_sets, num), set_N, is_uniform)

    def _cross_entropy(self, x_TBD: Tensor, batch: Batch, is_used_TB: Tensor, step: int) -> Tensor:
        """The sum of the next item's cross-entropy over the used positions, in nats."""
        x_ND, target_N = x_TBD[is_used_TB], batch.target_BT.t()[is_used_TB]
        use = partial(full_softmax, target_N=target_N)
        if self.config.loss.kind == "sampled":
            negatives = self._negatives(batch.key_B, is_used_TB, step)
            use = partial(sampled_softmax, target_N=target_N, negatives=negatives)
        return self.network.head(x_ND, use)  # type: ignore[no-any-return]

    @torch.no_grad()
    def _validate(self, batch: Batch) -> dict[str, Tensor]:
        network = self.network
        history = network.embed_batch(batch)
        decision = network.decide(history)
        target_B = batch.target_BT[:, -1]
        if decision is None and network.exits is not None:
            exits = network.model_config.exits
            assert exits is not None
            x_MBD = network.prefixes(history, exits)
            use = partial(target_ranks, target_B=target_B.repeat(len(exits)))
            rank_MB = network.head(x_MBD.flatten(0, 1), use).view(len(exits), -1)
            every_BL = torch.ones(len(target_B), network.num_blocks, device=target_B.device)
            ranks = {f"{AT_DEPTH}{d}": rank_B for d, rank_B in zip(exits, rank_MB, strict=True)}
            return {"rank_B": rank_MB[-1], "keep_BL": every_BL, **ranks}
        execution: Execution = "dense" if decision is None else "gathered"
        x_BD = network.encode_last(history, decision, execution, call_every_block=True)
        rank_B = network.head(x_BD, partial(target_ranks, target_B=target_B))
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
