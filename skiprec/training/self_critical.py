"""SkipRec-RL: self-critical sequence training (Rennie et al., CVPR 2017) of keep decisions.

A step runs the backbone three times, gathered: a row's block runs only where that row keeps it, and
each block is called on every rank, so the steps are safe under every ZeRO stage. Nothing passes
through a skipped block, so nothing has to be computed there.

| run | whose decision | gradient | dropout | scored at |
|---|---|---|---|---|
| 1 | sampled (coins of the policy) | no | off | last position: its reward |
| 2 | deterministic (argmax) | no | off | last position: the reward to beat |
| 3 | sampled | backbone | on | every position: L_CE |

The policy learns from L_RL alone, blocks and head from L_CE alone: keep decisions of coins have no
gradient. A policy without an embedding of its own moves the backbone's item vectors, too.
"""

import torch
from torch import Tensor

from skiprec.network import SkipRecNetwork
from skiprec.policy.decisions import TINY, entropy
from skiprec.policy_config import ReinforcePolicyConfig
from skiprec.training.hits import hits
from skiprec.training.passes import Pass, without_dropout
from skiprec.types import Batch, Execution, KeepDecision


def self_critical_loss(
    network: SkipRecNetwork,
    policy: ReinforcePolicyConfig,
    execution: Execution,
    batch: Batch,
    sampled: KeepDecision,
    what: Pass,
) -> tuple[Tensor, dict[str, Tensor]]:
    """beta * L_RL over the global batch's rows, less the entropy bonus; and sums for the log."""
    prob_BL = sampled.prob_BL
    assert prob_BL is not None
    greedy_BL = (prob_BL > 0.5).float()
    sampled_B = rewards(network, policy, execution, batch, sampled.keep_BL)
    greedy_B = rewards(network, policy, execution, batch, greedy_BL)
    advantage_B = sampled_B - greedy_B
    loss = policy.beta * score_function_loss(prob_BL, sampled.keep_BL, advantage_B) / what.num_rows
    if policy.entropy_weight is not None:
        loss = loss - policy.entropy_weight * entropy(prob_BL).mean(1).sum() / what.num_rows
    return loss, {
        "reward_sampled": sampled_B.sum(),
        "reward_greedy": greedy_B.sum(),
        "advantage_abs": advantage_B.abs().sum(),
    }


def score_function_loss(prob_BL: Tensor, keep_BL: Tensor, advantage_B: Tensor) -> Tensor:
    """-sum over rows of advantage * sum over blocks of log P(decision): the slides' L_RL."""
    return -(advantage_B * log_prob(prob_BL, keep_BL)).sum()


def log_prob(prob_BL: Tensor, keep_BL: Tensor) -> Tensor:
    """`[B]`: log P(this decision of all blocks). A block that is not free yet has P(keep) = 1."""
    prob_BL = torch.where(keep_BL > 0.5, prob_BL, 1 - prob_BL)
    return prob_BL.clamp(min=TINY).log().sum(1)


@torch.no_grad()
def rewards(
    network: SkipRecNetwork,
    policy: ReinforcePolicyConfig,
    execution: Execution,
    batch: Batch,
    keep_BL: Tensor,
) -> Tensor:
    """`[B]`: what each row's decision earns at the last position, dropout off."""
    with without_dropout(network):
        history = network.embed(batch.input_BT, batch.key_B)
        x_TBD = network.encode(history, KeepDecision(keep_BL, None), execution, True)
    return reward(policy, hits(network, x_TBD[-1], batch, policy.reward_cut), keep_BL)


def reward(policy: ReinforcePolicyConfig, is_hit_B: Tensor, keep_BL: Tensor) -> Tensor:
    """The slides' R: 1 - (kept / N)^2 on a hit, -gamma on a miss. See `ReinforcePolicyConfig`."""
    share_B = keep_BL.mean(1)
    on_hit_B = share_B.square() if policy.reward == "released_code" else 1 - share_B.square()
    return torch.where(is_hit_B, on_hit_B, -policy.gamma)
