"""SkipRec-RL: self-critical sequence training (Rennie et al., CVPR 2017) of keep decisions.

A step runs the backbone three times, gathered: a block runs only on the rows that keep it. Every
rank calls every block, so the step is safe under every ZeRO stage. No gradient passes through a
skipped block, so its output is not needed.

| run | decision | gradient | dropout | result |
|---|---|---|---|---|
| 1 | sampled | no | off | reward at the last position |
| 2 | deterministic (argmax) | no | off | reward at the last position, the baseline of run 1 |
| 3 | sampled | backbone | on | L_CE at every position |

The policy learns from L_RL alone, and blocks and head learn from L_CE alone, because sampled
decisions have no gradient. A policy without its own embedding also trains the backbone's item
vectors.
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
        """beta * L_RL / (rows of the global batch), minus the entropy bonus."""
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
        """The number of free blocks, if `free_blocks_frac` is set."""
        if self.options.free_blocks_frac is None:
            return {}
        free = self.options.num_free_blocks(self.network.num_blocks, progress)
        return {"policy/free_blocks": float(free)}

    @torch.no_grad()
    def rewards(self, batch: Batch, keep_BL: Tensor) -> Tensor:
        """`[B]`: the reward of each row's decision at the last position, with dropout off."""
        network = self.network
        with without_dropout(network):
            history = network.embed_batch(batch)
            x_BD = network.encode_last(history, KeepDecision(keep_BL, None), self.execution, True)
        cut = self.options.reward_cut
        use = partial(target_hits, target_B=batch.target_BT[:, -1], cut=cut)
        return reward(self.options, network.head(x_BD, use), keep_BL)


def reward(options: Options, is_hit_B: Tensor, keep_BL: Tensor) -> Tensor:
    """`[B]`: the reward R, by default 1 - (kept / N)^2 for a hit and -gamma for a miss.

    Source: the slides; `Options.reward` chooses the reward of a hit.
    """
    share_B = keep_BL.mean(1)
    on_hit_B = share_B.square() if options.reward == "released_code" else 1 - share_B.square()
    return torch.where(is_hit_B, on_hit_B, -options.gamma)


def score_function_loss(prob_BL: Tensor, keep_BL: Tensor, advantage_B: Tensor) -> Tensor:
    """L_RL of the slides: -sum over rows of advantage * sum over blocks of log P(decision)."""
    return -(advantage_B * log_prob(prob_BL, keep_BL)).sum()


def log_prob(prob_BL: Tensor, keep_BL: Tensor) -> Tensor:
    """`[B]`: log P of the decisions of all blocks. A block that is not free yet has P(keep) = 1."""
    prob_BL = torch.where(keep_BL > 0.5, prob_BL, 1 - prob_BL)
    return prob_BL.clamp(min=TINY).log().sum(1)
