"""Training of SkipRec-Gumbel: a budget, and terms that make the decisions of users differ.

The means over the global batch are computed before the loss pass. Each term is therefore linear in
the rows of a pass, and its gradient, summed over passes and ranks, is exact at any number of
workers.
"""

from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from skiprec.network import without_dropout
from skiprec.policy.decisions import TINY, entropy
from skiprec.policy.gumbel.module import Policy
from skiprec.policy.gumbel.options import Options
from skiprec.policy.training import PolicyTraining
from skiprec.ranking import target_hits
from skiprec.types import Batch, KeepDecision, Pass

GUIDE_CUT = 5


class Training(PolicyTraining):
    """See `PolicyTraining`."""

    options: Options
    policy: Policy

    @property
    def needs_statistics(self) -> bool:
        """Whether a term needs the mean decision of the global batch."""
        is_of_the_batch = self.options.budget_weight is not None and self.options.budget != "user"
        return is_of_the_batch or self.options.information_weight is not None

    def statistics(self, decision: KeepDecision) -> dict[str, Tensor]:
        """Sums of the sampled decisions, the decisions of serving, and P(keep) of each block."""
        assert decision.prob_BL is not None
        return {
            "sampled": decision.keep_BL.sum(),
            "served": (decision.prob_BL > 0.5).sum(),
            "prob_L": decision.prob_BL.sum(0),
        }

    def decision_of_blocks(self, decision: KeepDecision, num_positions: int) -> KeepDecision:
        """The decision; with `learn_from = "last_position"`, only that position has a gradient."""
        if self.options.learn_from is None:
            return decision
        return replace(decision, keep_BL=at_the_last_position(decision.keep_BL, num_positions))

    def loss(
        self, batch: Batch, decision: KeepDecision, pass_: Pass
    ) -> tuple[Tensor | float, dict[str, Tensor]]:
        """The sum of the terms whose weights are set."""
        options = self.options
        assert decision.prob_BL is not None
        loss: Tensor | float = 0.0
        sums: dict[str, Tensor] = {}
        if options.budget_weight is not None:
            loss = loss + self._budget(decision, pass_)
        if options.entropy_weight is not None:
            assert pass_.progress is not None
            weight = options.entropy_weight * (1 - pass_.progress)
            loss = loss - weight * entropy(decision.prob_BL).mean(1).sum() / pass_.num_rows
        if options.information_weight is not None:
            mean_L = pass_.statistics["prob_L"] / pass_.num_rows
            information = information_sum(decision.prob_BL, mean_L) / pass_.num_rows
            loss = loss - options.information_weight * information
        if options.guide_weight is not None:
            guide, easy = self._guide(batch, decision.prob_BL)
            loss = loss + options.guide_weight * guide / pass_.num_rows
            sums["guide_easy_frac"] = easy
        return loss, sums

    def after_step(self, pass_: Pass) -> None:
        """Updates the price, which rises while serving would keep more than the target.

        This is dual ascent on the logarithm of the price, so that one rate suits losses of any
        scale.
        """
        if self.options.budget != "shared":
            return
        assert self.options.target_keep_frac is not None
        excess = self._mean(pass_, "served") - self.options.target_keep_frac
        with torch.no_grad():
            self.policy.price_1 *= torch.exp(self._budget_weight(pass_) * excess)

    def step_scalars(self, progress: float) -> dict[str, float]:
        """The temperature of the samples."""
        return {"policy/temperature": self.options.temperature(progress)}

    def window_scalars(self, keep_frac: float) -> dict[str, float]:
        """The penalty of `budget = "batch"` at the mean decision."""
        weight, target = self.options.budget_weight, self.options.target_keep_frac
        if self.options.budget != "batch" or weight is None or target is None:
            return {}
        return {"train/budget": weight * (keep_frac - target) ** 2}

    def validation_scalars(self) -> dict[str, float]:
        """The price of all blocks."""
        return {"policy/price": float(self.policy.price_1)}

    def _budget(self, decision: KeepDecision, pass_: Pass) -> Tensor | float:
        """The budget term, with k the mean decision of the global batch, or of each user.

        "batch": weight * (k - target)^2 (ConvNet-AIG; Veit & Belongie, ECCV 2018), "user": the same
        for each user, "shared": price * k. The term "batch" enters by its linear part at k, which
        has the same gradient.
        """
        target = self.options.target_keep_frac
        assert target is not None
        num_cells = pass_.num_rows * self.network.num_blocks
        if self.options.budget == "user":
            excess_B = decision.keep_BL.mean(1) - target
            return self._budget_weight(pass_) * excess_B.square().sum() / pass_.num_rows
        if self.options.budget == "batch":
            excess = self._mean(pass_, "sampled") - target
            weight = 2 * self._budget_weight(pass_)
            return weight * excess * decision.keep_BL.sum() / num_cells
        return self.policy.price_1 * decision.keep_BL.sum() / num_cells

    def _budget_weight(self, pass_: Pass) -> float:
        assert self.options.budget_weight is not None
        assert pass_.progress is not None
        return self.options.budget_weight * self.options.budget_ramp(pass_.progress)

    def _mean(self, pass_: Pass, name: str) -> Tensor:
        """The statistic `name` as a share of the block calls of the global batch."""
        return pass_.statistics[name] / (pass_.num_rows * self.network.num_blocks)

    def _guide(self, batch: Batch, prob_BL: Tensor) -> tuple[Tensor, Tensor]:
        """Sum over easy rows of the mean of -log P(skip) over the second half of the blocks.

        Of these, only blocks that the policy decides about count.

        The second result is the number of easy rows. A row is easy if the first half of the blocks
        ranks its target among the best `GUIDE_CUT` items at the last position.
        """
        network = self.network
        half = network.num_blocks // 2
        with torch.no_grad(), without_dropout(network):
            history = network.embed_batch(batch)
            x_BD = network.prefixes(history, (half,))[0]
            use = partial(target_hits, target_B=batch.target_BT[:, -1], cut=GUIDE_CUT)
            is_easy_B: Tensor = network.head(x_BD, use)
        decided = max(half, self.options.reads_after or 0)  # those before run for every row
        log_skip_BL = (1 - prob_BL[:, decided:]).clamp(min=TINY).log()
        return -(log_skip_BL.mean(1) * is_easy_B).sum(), is_easy_B.sum()


def at_the_last_position(keep_BL: Tensor, num_positions: int) -> Tensor:
    """`keep_TBL`, equal at all positions; only the last position has a gradient.

    The network is causal, so the losses of other positions do not depend on the branches at the
    last position. The policy therefore learns only from the loss whose target it has not read. (The
    influence of earlier positions on the last one through later blocks is left out.) The gradient
    is multiplied by T, as if all positions agreed with the last one.
    """
    fixed_BL = keep_BL.detach()
    last_BL = fixed_BL + num_positions * (keep_BL - fixed_BL)
    return torch.cat([fixed_BL.expand(num_positions - 1, *keep_BL.shape), last_BL[None]])


def information_sum(prob_BL: Tensor, mean_L: Tensor) -> Tensor:
    """The sum over rows of a term that adds up to (number of rows) * I(user; decision), in nats.

    I is the mean over blocks of H(mean p) - mean H(p), over the global batch. Because the mean is
    known, H(mean p) is replaced by its tangent, H(mean) + (p - mean) * H'(mean), which has the same
    sum and the same gradient.

    Args:
        prob_BL: P(keep) of some rows of the global batch.
        mean_L: mean of P(keep) over the whole global batch.
    """
    mean_L, prob_BL = mean_L.clamp(TINY, 1 - TINY), prob_BL.clamp(TINY, 1 - TINY)
    tangent_BL = entropy(mean_L) - torch.logit(mean_L) * (prob_BL - mean_L)
    return (tangent_BL - entropy(prob_BL)).mean(1).sum()
