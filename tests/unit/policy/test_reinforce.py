"""Sampled decisions of SkipRec-RL: their probabilities, the free blocks, and serving."""

from typing import Any

import pytest
import torch

from skiprec.network import SkipRecNetwork
from skiprec.policy.reinforce.module import bounded
from skiprec.types import Batch, KeepDecision
from tests.testkit.networks import (
    NUM_BLOCKS,
    build_network,
    model_config,
    policy_config,
    random_batch,
)


def network_with(**options: Any) -> SkipRecNetwork:
    network = build_network(model_config(), policy_config("reinforce", **options))
    with torch.no_grad():
        network.policy.head.linear.weight.mul_(8)  # so that probabilities are far from a half
    return network


def decide(network: SkipRecNetwork, batch: Batch, progress: float | None) -> KeepDecision:
    decision = network.decide(network.embed_batch(batch), progress)
    assert decision is not None
    return decision


@pytest.mark.parametrize("bound", [0.6, 0.8, 1.0])
def test_coins_are_drawn_with_the_bounded_probability(bound: float) -> None:
    batch = random_batch(200)
    network = network_with(prob_bound=bound)
    free_BL = decide(network, batch, None).prob_BL
    drawn_BL = decide(network, batch, 0.5).prob_BL
    torch.testing.assert_close(drawn_BL, bound * free_BL + (1 - bound) * (1 - free_BL))
    assert drawn_BL.min() >= 1 - bound
    assert drawn_BL.max() <= bound
    assert free_BL.min() < 0.1, "the bound must have an effect"
    assert free_BL.max() > 0.9


def test_a_bound_of_one_leaves_the_probability_and_a_certain_one_stays_open() -> None:
    prob_L = torch.tensor([0.0, 0.3, 1.0])
    assert torch.equal(bounded(prob_L, 1.0), prob_L)
    torch.testing.assert_close(bounded(prob_L, 0.8), torch.tensor([0.2, 0.38, 0.8]))


def test_the_frequencies_are_the_probabilities_and_blocks_are_independent() -> None:
    num_rows = 20_000
    one = random_batch(1)
    key_B = torch.randint(-(2**62), 2**62, (num_rows,), generator=torch.Generator().manual_seed(5))
    decision = decide(network_with(), Batch(one.items_BW.expand(num_rows, -1), key_B), 1.0)
    prob_L = decision.prob_BL[0]
    sigma_L = (prob_L * (1 - prob_L) / num_rows) ** 0.5
    assert ((decision.keep_BL.mean(0) - prob_L).abs() < 4 * sigma_L).all()
    off_diagonal = torch.corrcoef(decision.keep_BL.t()) - torch.eye(NUM_BLOCKS)
    assert off_diagonal.abs().max() < 5 / num_rows**0.5


@pytest.mark.parametrize(("progress", "held"), [(0.0, 3), (0.25, 2), (0.3, 1), (0.5, 0), (1.0, 0)])
def test_blocks_that_are_not_free_yet_are_kept_and_learn_nothing(
    progress: float, held: int
) -> None:
    """Four blocks become free from the last to the first, over half of the training."""
    network, batch = network_with(free_blocks_frac=0.5), random_batch(64)
    decision = decide(network, batch, progress)
    assert (decision.keep_BL[:, :held] == 1).all()
    assert (decision.prob_BL[:, :held] == 1).all()
    unheld = decide(network_with(), batch, progress)
    assert torch.equal(decision.keep_BL[:, held:], unheld.keep_BL[:, held:])
    assert torch.equal(decision.prob_BL[:, held:], unheld.prob_BL[:, held:])
    assert (unheld.keep_BL.mean(0) < 1).all(), "the control: some rows skip free blocks"
    decision.prob_BL.square().sum().backward()
    gradient_L = network.policy.head.linear.weight.grad.view(NUM_BLOCKS, 2, -1).abs().amax((1, 2))
    assert (gradient_L[:held] == 0).all()
    assert (gradient_L[held:] > 0).all()


@pytest.mark.parametrize("bound", [0.6, 0.8, 1.0])
def test_more_than_a_half_is_the_decision_of_serving_once_all_blocks_are_free(bound: float) -> None:
    """The greedy decision of training equals the decision of serving."""
    network, batch = network_with(prob_bound=bound, free_blocks_frac=0.5), random_batch(200)
    serving_BL = decide(network, batch, None).keep_BL
    assert torch.equal((decide(network, batch, 1.0).prob_BL > 0.5).float(), serving_BL)
    assert 0.1 < serving_BL.mean() < 0.9
    early_BL = (decide(network, batch, 0.0).prob_BL > 0.5).float()
    assert not torch.equal(early_BL, serving_BL), (
        "the control: it differs while some blocks are not free"
    )


def test_keep_decisions_carry_no_gradient_and_probabilities_do() -> None:
    decision = decide(network_with(), random_batch(8), 0.5)
    assert not decision.keep_BL.requires_grad
    assert decision.prob_BL.requires_grad
