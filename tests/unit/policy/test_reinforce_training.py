"""SkipRec-RL: its loss by hand, its expected gradient, and which weights get a gradient."""

import itertools
from math import log
from typing import Any

import pytest
import torch
from torch import Tensor

from skiprec.config.run import RunConfig
from skiprec.network import SkipRecNetwork
from skiprec.policy.reinforce.module import bounded
from skiprec.policy.reinforce.training import Training, log_prob, reward, score_function_loss
from skiprec.training.objective import Objective
from skiprec.types import Batch, KeepDecision, Pass
from tests.testkit.networks import (
    NUM_BLOCKS,
    build_network,
    random_batch,
    run_config,
    take_rows,
)

PROB = torch.tensor([[0.8, 0.6, 0.3, 0.9], [0.5, 0.4, 0.5, 0.5], [0.2, 0.7, 0.6, 0.4]]).double()
SAMPLED = torch.tensor([[1.0, 1, 0, 1], [0, 1, 0, 0], [1, 0, 1, 0]])
GREEDY = torch.tensor(
    [[1.0, 1, 0, 1], [0, 0, 0, 0], [0, 1, 1, 0]]
)  # 1 where PROB is above one half
HITS_SAMPLED, HITS_GREEDY = (True, True, False), (True, False, True)
# Rewards of hits with 3, 1, 0 and 2 of 4 blocks, and of a miss, for each form of the reward.
BY_HAND = {
    "slide": {
        "sampled": [1 - 9 / 16, 1 - 1 / 16, -0.5],
        "greedy": [1 - 9 / 16, -0.5, 1 - 4 / 16],
        "advantage": [0.0, 15 / 16 + 1 / 2, -1 / 2 - 3 / 4],
    },
    "released_code": {
        "sampled": [9 / 16, 1 / 16, -0.5],
        "greedy": [9 / 16, -0.5, 4 / 16],
        "advantage": [0.0, 1 / 16 + 1 / 2, -1 / 2 - 1 / 4],
    },
}
LOG_P = [
    log(0.8) + log(0.6) + log(1 - 0.3) + log(0.9),
    log(1 - 0.5) + log(0.4) + log(1 - 0.5) + log(1 - 0.5),
    log(0.2) + log(1 - 0.7) + log(0.6) + log(1 - 0.4),
]


def close(actual: Any, expected: Any) -> None:
    torch.testing.assert_close(
        torch.as_tensor(actual).double(), torch.as_tensor(expected).double(), rtol=1e-6, atol=1e-9
    )


@pytest.mark.parametrize("form", BY_HAND)
def test_the_loss_of_three_rows_by_hand(form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    config = run_config("reinforce", policy__beta=2.0, policy__gamma=0.5, policy__reward=form)
    policy = config.policy
    is_hit = {str(SAMPLED): HITS_SAMPLED, str(GREEDY): HITS_GREEDY}

    def given_hits(self: Training, batch: Batch, keep_BL: Tensor) -> Tensor:
        return reward(policy, torch.tensor(is_hit[str(keep_BL)]), keep_BL)

    monkeypatch.setattr(Training, "rewards", given_hits)
    training = Training(config, build_network(config.model, config.policy))
    hand = BY_HAND[form]
    close(reward(policy, torch.tensor(HITS_SAMPLED), SAMPLED), hand["sampled"])
    close(reward(policy, torch.tensor(HITS_GREEDY), GREEDY), hand["greedy"])
    close(log_prob(PROB, SAMPLED), LOG_P)
    loss, sums = training.loss(
        random_batch(3), KeepDecision(SAMPLED, PROB), Pass("loss", num_rows=3)
    )
    expected = -sum(a * p for a, p in zip(hand["advantage"], LOG_P, strict=True))
    close(loss, 2.0 * expected / 3)
    close(sums["reward_sampled"], sum(hand["sampled"]))
    close(sums["reward_greedy"], sum(hand["greedy"]))
    close(sums["advantage_abs"], hand["advantage"][1] - hand["advantage"][2])


def small_training(execution: str = "masked", **options: Any) -> Training:
    config = run_config(
        "reinforce",
        model__dropout=0.5,
        training__execution=execution,
        **{f"policy__{name}": value for name, value in options.items()},
    )
    return Training(config, build_network(config.model, config.policy).train())


def every_decision() -> Tensor:
    return torch.tensor(list(itertools.product([0.0, 1.0], repeat=NUM_BLOCKS)))


@pytest.mark.parametrize("execution", ["masked", "gathered"])
def test_rewards_are_those_of_each_row_run_by_itself(execution: str) -> None:
    """The reference runs one row at a time, without dropout, and sorts the whole catalogue."""
    training, batch = small_training(execution, reward_cut=10), random_batch(16)
    network = training.network
    keep_BL = every_decision()
    actual_B = training.rewards(batch, keep_BL)
    assert network.training, "dropout is on again"
    expected = []
    network.eval()
    for row, keep_L in enumerate(keep_BL):
        one = take_rows(batch, slice(row, row + 1))
        history = network.embed_batch(one)
        x_TBD = history.x_TBD
        for keep, block in zip(keep_L, network.stack.blocks, strict=True):
            if keep:
                x_TBD = x_TBD + block(x_TBD, history.is_item_TB1)
        score_V = network.head.weight_VD @ x_TBD[-1, 0] + network.head.bias_V
        best = (score_V.argsort(descending=True)[:10] + 1).tolist()
        is_hit = int(one.items_BW[0, -1]) in best
        expected.append(1 - float(keep_L.mean()) ** 2 if is_hit else -0.5)
    close(actual_B, expected)
    assert 2 <= expected.count(-0.5) <= 14, "hits and misses must both occur"


def policy_gradient(
    batch: Batch, logits_L: Tensor, training: Training
) -> tuple[Tensor, Tensor, Tensor]:
    """For all 16 decisions of one row: gradients `[16, L]`, P(decision) and rewards."""
    keep_DL = every_decision()
    many = take_rows(batch, torch.zeros(16, dtype=torch.int64))
    logits_DL = logits_L.expand(16, -1).clone().requires_grad_()
    prob_DL = bounded(logits_DL.sigmoid(), 0.8)
    loss, _ = training.loss(many, KeepDecision(keep_DL, prob_DL), Pass("loss", num_rows=1))
    (gradient_DL,) = torch.autograd.grad(loss, logits_DL)
    reward_D = training.rewards(many, keep_DL)
    return gradient_DL, log_prob(prob_DL, keep_DL).exp().detach(), reward_D


def exact_gradient(logits_L: Tensor, reward_D: Tensor) -> Tensor:
    """The gradient of -E[reward] = -sum over decisions of P(decision) * reward, by autograd."""
    logits_L = logits_L.clone().requires_grad_()
    prob_L = 0.8 * logits_L.sigmoid() + 0.2 * (1 - logits_L.sigmoid())
    keep_DL = every_decision()
    p_D = (keep_DL * prob_L + (1 - keep_DL) * (1 - prob_L)).prod(1)
    (gradient_L,) = torch.autograd.grad(-(p_D * reward_D).sum(), logits_L)
    return gradient_L


def test_the_expected_gradient_is_that_of_the_expected_reward() -> None:
    training = small_training(reward_cut=8)
    logits_L = torch.tensor([0.4, -1.1, 2.0, 0.1], dtype=torch.float64)
    mixed = 0
    for row in range(40):
        batch = take_rows(random_batch(40), slice(row, row + 1))
        gradient_DL, p_D, reward_D = policy_gradient(batch, logits_L, training)
        assert p_D.sum().item() == pytest.approx(1)
        expected_L = exact_gradient(logits_L, reward_D)
        close(p_D @ gradient_DL, expected_L)
        if 0 < (reward_D > 0).sum() < 16:  # the decision affects whether the row is a hit
            mixed += 1
            # Control: the gradient of a single decision is a noisy estimate.
            assert (gradient_DL - expected_L).abs().max() > 0.1
    assert mixed >= 4


def expected_gradient(baseline_D: Tensor, reward_D: Tensor, logits_L: Tensor) -> Tensor:
    logits_DL = logits_L.expand(16, -1).clone().requires_grad_()
    prob_DL = bounded(logits_DL.sigmoid(), 0.8)
    keep_DL = every_decision()
    loss = score_function_loss(prob_DL, keep_DL, reward_D - baseline_D)
    (gradient_DL,) = torch.autograd.grad(loss, logits_DL)
    return log_prob(prob_DL, keep_DL).exp().detach() @ gradient_DL


def test_a_baseline_that_reads_the_sampled_decision_would_be_wrong() -> None:
    """A constant does not change the expected gradient; a function of the decision does."""
    logits_L = torch.tensor([0.4, -1.1, 2.0, 0.1], dtype=torch.float64)
    keep_DL = every_decision().double()
    reward_D = torch.where(keep_DL[:, 1] > keep_DL[:, 3], -0.5, 1 - keep_DL.mean(1) ** 2)
    exact_L = exact_gradient(logits_L, reward_D)
    for constant in (0.0, 0.4, -3.0):
        baseline_D = torch.full((16,), constant, dtype=torch.float64)
        close(expected_gradient(baseline_D, reward_D, logits_L), exact_L)
    dependent = expected_gradient(keep_DL.mean(1), reward_D, logits_L)
    assert (dependent - exact_L).abs().max() > 0.01
    flipped = expected_gradient(2 * reward_D, reward_D, logits_L)  # advantage = -reward
    close(flipped, -exact_L)
    assert (flipped - exact_L).abs().max() > 0.05


def test_the_entropy_bonus_is_weight_times_the_mean_entropy() -> None:
    batch = random_batch(3)
    prob_BL = PROB.clone().requires_grad_()
    losses = []
    for weight in (None, 0.7):
        training = small_training(entropy_weight=weight)
        decision = KeepDecision(SAMPLED, prob_BL)
        losses.append(training.loss(batch, decision, Pass("loss", num_rows=3))[0])
    bonus = losses[1] - losses[0]
    mean = sum(-p * log(p) - (1 - p) * log(1 - p) for p in PROB.flatten().tolist()) / 12
    close(bonus, -0.7 * mean)
    (gradient_BL,) = torch.autograd.grad(bonus, prob_BL)
    close(gradient_BL.sign(), (PROB - 0.5).sign())  # descent moves P(keep) towards one half


def gradients(loss: Tensor, network: SkipRecNetwork) -> dict[str, Tensor | None]:
    names, parameters = zip(*network.named_parameters(), strict=True)
    values = torch.autograd.grad(loss, parameters, allow_unused=True)
    return dict(zip(names, values, strict=True))


def has_gradient(gradient: dict[str, Tensor | None], prefix: str) -> bool:
    part = [value for name, value in gradient.items() if name.startswith(prefix)]
    assert part, prefix
    return any(value is not None and bool((value != 0).any()) for value in part)


def loss_pass(batch: Batch) -> Pass:
    return Pass("loss", 0, 1.0, batch.is_scored_BT.sum(), len(batch.items_BW))


@pytest.mark.parametrize("execution", ["masked", "gathered"])
@pytest.mark.parametrize("own", [True, False], ids=["own embedding", "slim"])
def test_each_part_learns_from_its_own_loss(
    execution: str, own: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = run_config(
        "reinforce", training__execution=execution, policy__own_embedding=own, policy__reward_cut=8
    )
    batch = random_batch(24)
    network = build_network(config.model, config.policy)
    history = network.embed_batch(batch)
    sampled = network.decide(history, 1.0)
    assert not sampled.keep_BL.requires_grad
    loss, _ = Training(config, network).loss(batch, sampled, loss_pass(batch))
    gradient = gradients(loss, network)
    assert has_gradient(gradient, "policy.")
    assert not has_gradient(gradient, "stack.")
    assert not has_gradient(gradient, "head.")
    assert has_gradient(gradient, "embedding.") == (not own), "a slim policy reads the embedding"

    monkeypatch.setattr(Training, "loss", lambda *_: (0.0, {}))
    gradient = gradients(Objective(network, config)(batch, loss_pass(batch))["loss"], network)
    assert not has_gradient(gradient, "policy.")
    assert has_gradient(gradient, "stack.")
    assert has_gradient(gradient, "embedding.")


@pytest.mark.parametrize("options", [{}, {"policy__entropy_weight": 0.2}], ids=["plain", "entropy"])
def test_masked_and_gathered_give_the_same_loss_and_gradient(options: dict[str, float]) -> None:
    def run(execution: str, seed: int = 0) -> tuple[Tensor, dict[str, Tensor | None]]:
        config: RunConfig = run_config(
            "reinforce",
            training__execution=execution,
            model__dropout=0.3,
            policy__reward_cut=8,
            **options,
        )
        network = build_network(config.model, config.policy, seed).double().train()
        batch = random_batch(24)
        loss = Objective(network, config)(batch, loss_pass(batch))["loss"]
        return loss, gradients(loss, network)

    (masked, masked_gradient), (gathered, gathered_gradient) = run("masked"), run("gathered")
    torch.testing.assert_close(gathered, masked, rtol=1e-9, atol=0)
    for name, expected in masked_gradient.items():
        torch.testing.assert_close(gathered_gradient[name], expected, rtol=1e-7, atol=1e-10)
    assert has_gradient(masked_gradient, "policy.")
    other, _ = run("gathered", seed=1)
    assert abs(other - masked) > 1e-3
