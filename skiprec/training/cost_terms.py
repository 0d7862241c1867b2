"""Training of the policy that predicts costs (`policy/cost.py`)."""

from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from skiprec.network import SkipRecNetwork
from skiprec.policy.cost import CostPolicy
from skiprec.policy_config import CostPolicyConfig
from skiprec.scores import Scores
from skiprec.training.passes import Pass, without_dropout
from skiprec.types import PADDING, Batch, KeepDecision

MAX_SCORES = 2**24


def cost_loss(
    network: SkipRecNetwork,
    policy: CostPolicyConfig,
    batch: Batch,
    decision: KeepDecision,
    what: Pass,
) -> tuple[Tensor, dict[str, Tensor]]:
    """cost_weight * squared error of the predicted costs, a mean over rows and sets.

    Backbone and predictor learn in the same step: the backbone from the set that each row was given
    (the network's other loss), the predictor from what every set would have cost, as measured
    by the backbone as it is now, with dropout off and without gradient.
    """
    assert isinstance(network.policy, CostPolicy)
    predicted_BM = decision.cost_BM
    assert predicted_BM is not None
    cost_BM = nested_costs(network, batch, network.policy.sizes)
    error_BM = (predicted_BM - cost_BM).square()
    loss = policy.cost_weight * error_BM.mean(1).sum() / what.num_rows
    return loss, {
        "cost_error": error_BM.detach().mean(1).sum(),
        "cost_of_smallest": cost_BM[:, 0].sum(),
    }


@torch.no_grad()
def nested_costs(network: SkipRecNetwork, batch: Batch, sizes: tuple[int, ...]) -> Tensor:
    """`[B, M]`: cross-entropy at the last position with the first n blocks, minus with all, nats.

    Args:
        sizes: the n, rising; the last one is all blocks.
    """
    target_B = batch.target_BT[:, -1]
    with without_dropout(network):
        x_MBD = network.prefixes(network.embed(batch.input_BT, batch.key_B), sizes)
    use = partial(row_cross_entropy, target_N=target_B.repeat(len(sizes)))
    entropy_MB = network.head(x_MBD.flatten(0, 1), use).view(len(sizes), -1)
    cost_MB: Tensor = entropy_MB - entropy_MB[-1]
    return torch.where(target_B == PADDING, 0.0, cost_MB).t()


@torch.no_grad()
def row_cross_entropy(x_ND: Tensor, scores: Scores, *, target_N: Tensor) -> Tensor:
    """`[N]`: each row's own loss over the whole catalogue; no gradient, scores made in chunks."""
    size = max(1, MAX_SCORES // scores.num_items)
    parts = [
        F.cross_entropy(
            scores.columns(x_ND[start : start + size].float(), 0, scores.num_items),
            (target_N[start : start + size] - 1).clamp(min=0),
            reduction="none",
        )
        for start in range(0, max(1, len(x_ND)), size)
    ]
    return torch.cat(parts)
