"""What is added to the cross-entropy of SkipRec-Gumbel: a budget, and pressure to be personal.

Means over the global batch are known before the loss pass. So each term here is linear in the rows
at hand, and its gradient, summed over passes and ranks, is exact at any world size.
"""

import torch
from torch import Tensor

from skiprec.network import SkipRecNetwork
from skiprec.policy.decisions import TINY, entropy
from skiprec.policy.gumbel import GumbelPolicy
from skiprec.policy.schedules import budget_ramp
from skiprec.policy_config import GumbelPolicyConfig, PolicyConfig
from skiprec.training.hits import hits
from skiprec.training.passes import Pass, without_dropout
from skiprec.types import Batch, KeepDecision

GUIDE_CUT = 5


def needs_statistics(policy: PolicyConfig) -> bool:
    """Whether a term of the loss needs the mean decision of the global batch before it starts."""
    if not isinstance(policy, GumbelPolicyConfig):
        return False
    of_the_batch = policy.budget_weight is not None and policy.budget != "user"
    return of_the_batch or policy.information_weight is not None


def gumbel_loss(
    network: SkipRecNetwork,
    policy: GumbelPolicyConfig,
    batch: Batch,
    decision: KeepDecision,
    what: Pass,
) -> tuple[Tensor | float, dict[str, Tensor]]:
    """The terms that are switched on, and what to log of them."""
    assert decision.prob_BL is not None
    loss: Tensor | float = 0.0
    sums: dict[str, Tensor] = {}
    if policy.budget_weight is not None:
        loss = loss + _budget(network, policy, decision, what)
    if policy.entropy_weight is not None:
        assert what.progress is not None
        weight = policy.entropy_weight * (1 - what.progress)
        loss = loss - weight * entropy(decision.prob_BL).mean(1).sum() / what.num_rows
    if policy.information_weight is not None:
        assert what.prob_L is not None
        information = information_sum(decision.prob_BL, what.prob_L) / what.num_rows
        loss = loss - policy.information_weight * information
    if policy.guide_weight is not None:
        guide, easy = _guide(network, batch, decision.prob_BL)
        loss = loss + policy.guide_weight * guide / what.num_rows
        sums["guide_easy_frac"] = easy
    return loss, sums


def _budget(
    network: SkipRecNetwork, policy: GumbelPolicyConfig, decision: KeepDecision, what: Pass
) -> Tensor | float:
    """weight * (k - target)^2, k the mean decision of the global batch, or each user's own.

    The first is ConvNet-AIG's. "shared" is price * k: dual ascent on the price, in its logarithm,
    so that one rate suits every scale of losses.
    """
    assert policy.budget_weight is not None
    assert policy.target_keep_frac is not None
    assert what.progress is not None
    target, num_blocks = policy.target_keep_frac, network.num_blocks
    weight = policy.budget_weight * budget_ramp(policy, what.progress)
    if policy.budget == "user":
        excess_B = decision.keep_BL.mean(1) - target
        return weight * excess_B.square().sum() / what.num_rows
    if policy.budget == "batch":
        assert what.keep_frac is not None
        excess = what.keep_frac - target
        return 2 * weight * excess * decision.keep_BL.sum() / (what.num_rows * num_blocks)
    assert isinstance(network.policy, GumbelPolicy)
    price_1 = network.policy.price_1.clone()
    if what.is_last:
        assert what.served_frac is not None
        with torch.no_grad():
            network.policy.price_1 *= torch.exp(weight * (what.served_frac - target))
    return price_1 * decision.keep_BL.sum() / (what.num_rows * num_blocks)


def at_the_last_position(keep_BL: Tensor, num_positions: int) -> Tensor:
    """`keep_TBL`, equal at all positions, of which the last alone passes its gradient back.

    The network is causal, so no other position's loss depends on what is added there: the policy
    learns from the one loss whose target it has not read. (What earlier positions give on to the
    last through later blocks is left out.) Times T, as if all positions agreed with the last.
    """
    fixed_BL = keep_BL.detach()
    last_BL = fixed_BL + num_positions * (keep_BL - fixed_BL)
    return torch.cat([fixed_BL.expand(num_positions - 1, *keep_BL.shape), last_BL[None]])


def information_sum(prob_BL: Tensor, mean_L: Tensor) -> Tensor:
    """Sum over rows of a term that, over the global batch, is rows * I(user; decision), in nats.

    I = mean over blocks of H(mean p) - mean H(p). With the mean known, H(mean p) is replaced by its
    tangent there, H(mean) + (p - mean) * H'(mean): the sum and its gradient stay the same.
    """
    mean_L, prob_BL = mean_L.clamp(TINY, 1 - TINY), prob_BL.clamp(TINY, 1 - TINY)
    tangent_BL = entropy(mean_L) - torch.logit(mean_L) * (prob_BL - mean_L)
    return (tangent_BL - entropy(prob_BL)).mean(1).sum()


def _guide(network: SkipRecNetwork, batch: Batch, prob_BL: Tensor) -> tuple[Tensor, Tensor]:
    """Sum over easy rows of -log P(skip) of the deeper half, and how many are easy.

    Easy: the first half of the blocks has the target among its best at the last position.
    """
    half = network.num_blocks // 2
    with torch.no_grad(), without_dropout(network):
        history = network.embed(batch.input_BT, batch.key_B)
        is_easy_B = hits(network, network.prefixes(history, (half,))[0], batch, GUIDE_CUT)
    skip_BL = (1 - prob_BL[:, half:]).clamp(min=TINY).log()
    return -(skip_BL.mean(1) * is_easy_B).sum(), is_easy_B.sum()
