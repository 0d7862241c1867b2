"""SkipRec-RL: self-critical sequence training (Rennie et al., CVPR 2017) of keep decisions.

A step runs the backbone three times, gathered: a row's block runs only where that row keeps it, and
each block is called on every rank, so the steps are safe under every ZeRO stage. No gradient passes
through a skipped block, so nothing has to be computed there.

| run | whose decision | gradient | dropout | scored at |
|---|---|---|---|---|
| 1 | sampled (coins of the policy) | no | off | last position: its reward |
| 2 | deterministic (argmax) | no | off | last position: the reward to beat |
| 3 | sampled | backbone | on | every position: L_CE |

The policy learns from L_RL alone, blocks and head from L_CE alone: coins have no gradient. A policy
without an embedding of its own moves the backbone's item vectors, too.
"""

from functools import partial

import torch
from torch import Tensor

from skiprec.network import without_dropout
from skiprec.policy.decisions import TINY, entropy
from skiprec.policy.reinforce.options import Options
from skiprec.policy.training import PolicyTraining
from skiprec.ranking import target_hits
from skiprec.types import Batch, KeepDecision, Pass


class Training(PolicyTraining):
    """See `PolicyTraining`."""

    options: Options

    def loss(
        self, batch: Batch, decision: KeepDecision, pass_: Pass
    ) -> tuple[Tensor | float, dict[str, Tensor]]:
        """beta * L_RL over the rows of the global batch, minus the entropy bonus."""
        options, prob_BL = self.options, decision.prob_BL
        assert prob_BL is not None
        greedy_BL = (prob_BL > 0.5).float()
        sampled_B = self.rewards(batch, decision.keep_BL)
        greedy_B = self.rewards(batch, greedy_BL)
        advantage_B = sampled_B - greedy_B
        score = score_function_loss(prob_BL, decision.keep_BL, advantage_B)
        loss = options.beta * score / pass_.num_rows
        if options.entropy_weight is not None:
            loss = loss - options.entropy_weight * entropy(prob_BL).mean(1).sum() / pass_.num_rows
        return loss, {
            "reward_sampled": sampled_B.sum(),
            "reward_greedy": greedy_B.sum(),
            "advantage_abs": advantage_B.abs().sum(),
        }

    def step_scalars(self, progress: float) -> dict[str, float]:
        """The number of free blocks, where it changes."""
        if self.options.free_blocks_frac is None:
            return {}
        free = self.options.num_free_blocks(self.network.num_blocks, progress)
        return {"policy/free_blocks": float(free)}

    @torch.no_grad()
    def rewards(self, batch: Batch, keep_BL: Tensor) -> Tensor:
        """`[B]`: what each row's decision earns at the last position, with dropout off."""
        network = self.network
        with without_dropout(network):
            history = network.embed(batch.input_BT, batch.key_B)
            x_TBD = network.encode(history, KeepDecision(keep_BL, None), self.execution, True)
        cut = self.options.reward_cut
        use = partial(target_hits, target_B=batch.target_BT[:, -1], cut=cut)
        return reward(self.options, network.head(x_TBD[-1], use), keep_BL)


def reward(options: Options, is_hit_B: Tensor, keep_BL: Tensor) -> Tensor:
    """The slides' R: 1 - (kept / N)^2 on a hit, -gamma on a miss. See `Options.reward`."""
    share_B = keep_BL.mean(1)
    on_hit_B = share_B.square() if options.reward == "released_code" else 1 - share_B.square()
    return torch.where(is_hit_B, on_hit_B, -options.gamma)


def score_function_loss(prob_BL: Tensor, keep_BL: Tensor, advantage_B: Tensor) -> Tensor:
    """-sum over rows of advantage * sum over blocks of log P(decision): the slides' L_RL."""
    return -(advantage_B * log_prob(prob_BL, keep_BL)).sum()


def log_prob(prob_BL: Tensor, keep_BL: Tensor) -> Tensor:
    """`[B]`: log P(this decision of all blocks). A block that is not free yet has P(keep) = 1."""
    prob_BL = torch.where(keep_BL > 0.5, prob_BL, 1 - prob_BL)
    return prob_BL.clamp(min=TINY).log().sum(1)
