"""The terms of SkipRec-Gumbel's loss, each against autograd on its formula."""

import itertools
from collections.abc import Callable
from math import exp, log
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from skiprec.config.run import RunConfig
from skiprec.network import SkipRecNetwork
from skiprec.policy.gumbel.module import FIRST_PRICE
from skiprec.policy.gumbel.training import information_sum
from skiprec.policy.training import policy_training
from skiprec.training.collectives import SingleProcess
from skiprec.training.loop import run_step
from skiprec.training.plan import StepPlan
from skiprec.types import Batch, KeepDecision, Pass
from tests.testkit.networks import (
    NUM_BLOCKS,
    build_network,
    random_batch,
    run_config,
    take_rows,
)
from tests.testkit.steps import make_engine, step_gradient

BUDGET = {"policy__target_keep_frac": 0.2, "policy__budget_weight": 3.0}
SPLITS = pytest.mark.parametrize("sizes", [(12,), (6, 6), (1, 4, 7), (12, 0)], ids=str)


def passes(batch: Batch, sizes: tuple[int, ...]) -> list[Batch]:
    edges = [sum(sizes[:index]) for index in range(len(sizes) + 1)]
    return [take_rows(batch, slice(start, stop)) for start, stop in itertools.pairwise(edges)]


def coin_entropy(prob: Tensor) -> Tensor:
    return -prob * prob.log() - (1 - prob) * (1 - prob).log()


def information(prob_BL: Tensor) -> Tensor:
    """H(mean p) - mean H(p), averaged over blocks."""
    return (coin_entropy(prob_BL.mean(0)) - coin_entropy(prob_BL).mean(0)).mean()


def easy_rows(network: SkipRecNetwork, batch: Batch) -> Tensor:
    """Whether the first two of four blocks rank the target of a row among the best five items."""
    history = network.embed_batch(batch)
    x_TBD = history.x_TBD
    for block in network.stack.blocks[:2]:
        x_TBD = x_TBD + block(x_TBD, history.is_item_TB1)
    score_BV = x_TBD[-1] @ network.head.weight_VD.t() + network.head.bias_V
    best_BK = score_BV.argsort(dim=1, descending=True)[:, :5] + 1
    return (best_BK == batch.items_BW[:, -1:]).any(1)


def guide(network: SkipRecNetwork, batch: Batch, prob_BL: Tensor) -> Tensor:
    with torch.no_grad():
        is_easy_B = easy_rows(network.eval(), batch)
    assert 0 < is_easy_B.sum() < len(is_easy_B)
    return -torch.where(is_easy_B, (1 - prob_BL[:, 2:]).log().mean(1), 0.0).mean()


Formula = Callable[[SkipRecNetwork, Batch, KeepDecision], Tensor]
# For each term: the options that switch it on, and its formula over the whole batch.
TERMS: dict[str, tuple[dict[str, Any], Formula]] = {
    "batch budget": (BUDGET, lambda n, b, d: 3.0 * (d.keep_BL.mean() - 0.2) ** 2),
    "user budget": (
        {**BUDGET, "policy__budget": "user"},
        lambda n, b, d: 3.0 * (d.keep_BL.mean(1) - 0.2).square().mean(),
    ),
    "price": (
        {**BUDGET, "policy__budget": "shared"},
        lambda n, b, d: FIRST_PRICE * d.keep_BL.mean(),
    ),
    "entropy": (
        {"policy__entropy_weight": 0.6},
        lambda n, b, d: -0.6 * coin_entropy(d.prob_BL).mean(),
    ),
    "information": (
        {"policy__information_weight": 0.7},
        lambda n, b, d: -0.7 * information(d.prob_BL),
    ),
    "guide": ({"policy__guide_weight": 0.4}, lambda n, b, d: 0.4 * guide(n, b, d.prob_BL)),
}


def added(
    options: dict[str, Any], base: dict[str, Any], batches: list[Batch], *steps: int
) -> dict[str, Tensor]:
    """The gradient with the options minus the gradient without them."""
    more = step_gradient(run_config("gumbel", **base, **options), batches, *steps)
    less = step_gradient(run_config("gumbel", **base), batches, *steps)
    return {name: more[name] - less[name] for name in more}


@pytest.mark.parametrize("term", TERMS)
@pytest.mark.parametrize("dropout", [0.0, 0.3])
@SPLITS
def test_a_term_s_gradient_is_that_of_its_formula_over_the_whole_batch(
    term: str, dropout: float, sizes: tuple[int, ...]
) -> None:
    options, formula = TERMS[term]
    batch, base = random_batch(12), {"model__dropout": dropout}
    actual = added(options, base, passes(batch, sizes))
    config = run_config("gumbel", **base, **options)
    network = build_network(config.model, config.policy).double().train()
    decision = network.decide(network.embed_batch(batch), 0.0)
    formula(network, batch, decision).backward()
    for name, parameter in network.named_parameters():
        expected = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        torch.testing.assert_close(actual[name], expected, msg=name, rtol=1e-3, atol=2e-6)
    weight = network.policy.head.linear.weight
    least = (
        FIRST_PRICE / 200 if term == "price" else 1e-3
    )  # the first price is small, so its gradient is, too
    assert weight.grad.abs().max() > least
    # Control: the same formula over a part of the batch has another gradient.
    expected, weight.grad = weight.grad, None
    decision = network.train().decide(network.embed_batch(batch), 0.0)
    part = KeepDecision(decision.keep_BL[:9], decision.prob_BL[:9])
    formula(network, take_rows(batch, slice(0, 9)), part).backward()
    assert not torch.allclose(weight.grad, expected, rtol=0.05)


def test_a_user_s_budget_is_not_the_batch_s() -> None:
    """Half of the users keep all blocks and half keep none: the mean is on target, no user is."""
    options = {"target_keep_frac": 0.5, "budget_weight": 1.0, "budget": "user"}
    keep_BL = torch.tensor([[1.0] * 4, [0.0] * 4], requires_grad=True)
    decision, pass_ = KeepDecision(keep_BL, keep_BL.detach()), Pass("loss", 0, 0.0, num_rows=2)
    config = run_config("gumbel", **{f"policy__{key}": value for key, value in options.items()})
    training = policy_training(config, build_network(config.model, config.policy))
    loss, _ = training.loss(random_batch(2), decision, pass_)
    assert loss.item() == pytest.approx(0.25)
    loss.backward()
    assert keep_BL.grad.tolist() == [[0.125] * 4, [-0.125] * 4]


@pytest.mark.parametrize(("step", "share"), [(0, 0.0), (1, 0.5), (2, 1.0), (4, 1.0)])
@pytest.mark.parametrize("budget", ["batch", "user"])
def test_a_budget_in_its_warm_up_counts_for_a_share(budget: str, step: int, share: float) -> None:
    """The warm-up takes half of five steps, whose progress is 0, 0.25, 0.5, 0.75, 1."""
    batches = [random_batch(12)]
    options = {**BUDGET, "policy__budget": budget}
    whole = added(options, {}, batches, step, 5)
    warm = added({**options, "policy__budget_warmup_frac": 0.5}, {}, batches, step, 5)
    name = "policy.head.linear.weight"
    torch.testing.assert_close(warm[name], share * whole[name], rtol=1e-4, atol=1e-7)
    assert whole[name].abs().max() > 1e-3


def sum_over_passes(prob_BL: Tensor, sizes: tuple[int, ...]) -> Tensor:
    mean_L = prob_BL.detach().mean(0)
    return sum(information_sum(part, mean_L) for part in prob_BL.split(sizes))


@SPLITS
def test_information_and_its_gradient_are_those_of_the_formula(sizes: tuple[int, ...]) -> None:
    generator = torch.Generator().manual_seed(0)
    prob_BL = torch.rand(12, 5, generator=generator, dtype=torch.float64).requires_grad_()
    actual = sum_over_passes(prob_BL, sizes)
    expected = 12 * information(prob_BL)
    torch.testing.assert_close(actual, expected)
    assert expected > 0.1
    torch.testing.assert_close(
        torch.autograd.grad(actual, prob_BL)[0], torch.autograd.grad(expected, prob_BL)[0]
    )


def test_equal_rows_tell_nothing_and_two_certain_halves_tell_one_bit() -> None:
    equal_BL = torch.tensor([[0.2, 0.9, 1.0, 0.0]]).double().expand(6, -1).clone().requires_grad_()
    nothing = sum_over_passes(equal_BL, (6,))
    assert nothing.item() == pytest.approx(0, abs=1e-9)
    (gradient_BL,) = torch.autograd.grad(nothing, equal_BL)
    assert gradient_BL.abs().max() < 1e-9
    halves_BL = torch.tensor([[0.0, 1.0], [1.0, 0.0]]).double().repeat(3, 1)
    assert sum_over_passes(halves_BL, (6,)).item() / 6 == pytest.approx(log(2), abs=1e-4)
    unsure_BL = torch.tensor([[0.3, 0.7], [0.7, 0.3]]).double().repeat(3, 1)
    assert 0.01 < sum_over_passes(unsure_BL, (6,)).item() / 6 < 0.5 * log(2)


@pytest.mark.parametrize(("reads_after", "first"), [(None, 2), (1, 2), (3, 3)])
def test_the_guide_pulls_at_the_deeper_half_of_easy_rows_alone(
    reads_after: int | None, first: int
) -> None:
    config = run_config("gumbel", policy__guide_weight=0.4, policy__reads_after=reads_after)
    network, batch = build_network(config.model, config.policy), random_batch(60)
    generator = torch.Generator().manual_seed(0)
    prob_BL = torch.rand(60, NUM_BLOCKS, generator=generator).requires_grad_()
    decision = KeepDecision(torch.ones(60, NUM_BLOCKS), prob_BL)
    pass_ = Pass("loss", 0, 0.0, num_rows=60)
    loss, sums = policy_training(config, network).loss(batch, decision, pass_)
    loss.backward()
    is_easy_B = easy_rows(network, batch)
    assert 3 < is_easy_B.sum() < 57
    assert sums["guide_easy_frac"] == is_easy_B.sum()
    # d/dp of -log(1 - p), over the deep blocks that are decided about, and 60 rows.
    expected_BL = 0.4 / (1 - prob_BL.detach()) / (NUM_BLOCKS - first) / 60 * is_easy_B[:, None]
    expected_BL[:, :first] = 0
    torch.testing.assert_close(prob_BL.grad, expected_BL)


def test_the_guide_leaves_the_blocks_alone() -> None:
    gradient = added({"policy__guide_weight": 0.4}, {}, [random_batch(12)])
    assert max(value.abs().max() for name, value in gradient.items() if "stack" in name) < 1e-9
    assert gradient["policy.head.linear.weight"].abs().max() > 1e-3


def test_statistics_are_gathered_only_where_a_term_needs_them() -> None:
    def needs(kind: str = "gumbel", **options: Any) -> bool:
        config = run_config(kind, **{f"policy__{key}": value for key, value in options.items()})
        return policy_training(config, build_network(config.model, config.policy)).needs_statistics

    budget = {"target_keep_frac": 0.5, "budget_weight": 1.0}
    assert not needs()
    assert not needs(budget="user", **budget)
    assert not needs(guide_weight=0.1)
    assert needs(**budget)
    assert needs(budget="shared", **budget)
    assert needs(information_weight=0.1)
    assert not needs("reinforce")


def shared(target: float, weight: float = 2.0, **options: Any) -> RunConfig:
    return run_config(
        "gumbel",
        policy__budget="shared",
        policy__target_keep_frac=target,
        policy__budget_weight=weight,
        **options,
    )


@pytest.mark.parametrize("target", [0.1, 0.9])
@SPLITS
def test_the_price_moves_once_a_step_towards_the_target(
    target: float, sizes: tuple[int, ...]
) -> None:
    """The factor is exp(weight * (share that serving keeps - target)), for any number of passes."""
    config, batch = shared(target), random_batch(12)
    moved = -step_gradient(config, passes(batch, sizes))["policy.price_1"]
    network = build_network(config.model, config.policy).double().train()
    decision = network.decide(network.embed_batch(batch), 0.0)
    kept = (decision.prob_BL > 0.5).double().mean().item()
    assert 0.2 < kept < 0.8
    assert kept != pytest.approx(decision.keep_BL.mean().item()), (
        "serving and sampling keep different shares"
    )
    factor = exp(2.0 * (kept - target))
    assert moved.item() == pytest.approx(FIRST_PRICE * (factor - 1), rel=1e-4)
    assert (moved.item() > 0) == (target == 0.1), (
        "the price rises while more than the target is kept"
    )


@pytest.mark.parametrize(("progress", "weight"), [(0.0, 0.6), (0.25, 0.45), (1.0, 0.0)])
def test_the_entropy_bonus_falls_to_nothing(progress: float, weight: float) -> None:
    config = run_config("gumbel", policy__entropy_weight=0.6)
    network, batch = build_network(config.model, config.policy), random_batch(6)
    decision = network.decide(network.embed_batch(batch), progress)
    pass_ = Pass("loss", 0, progress, num_rows=6)
    loss, _ = policy_training(config, network).loss(batch, decision, pass_)
    assert loss.item() == pytest.approx(-weight * coin_entropy(decision.prob_BL).mean().item())


def served_frac(config: RunConfig, num_steps: int) -> float:
    """The share that serving keeps of some rows, after training steps on these rows."""
    engine, batch = make_engine(config), random_batch(60)
    plan = StepPlan(num_steps, log_every=100, validate_every=None, checkpoint_every=None)
    for step in range(num_steps):
        run_step(config, plan, engine, [batch], SingleProcess(), step)
    return engine.forward(batch, Pass("decide"))["keep_BL"].mean().item()


@pytest.mark.parametrize("precision", ["fp32", pytest.param("bf16", marks=pytest.mark.slow)])
def test_the_price_brings_serving_to_the_target(precision: str) -> None:
    learning = {
        "policy__entropy_weight": 0.1,
        "training__learning_rate": 1e-2,
        "training__global_batch_rows": 60,
        "training__precision": precision,
    }
    assert abs(served_frac(shared(0.25, 0.1, **learning), 300) - 0.25) < 0.1
    # Control: without a budget, the share stays far from the target.
    assert served_frac(run_config("gumbel", **learning), 300) > 0.5


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_checkpoint_holds_the_price(tmp_path: Path, precision: str) -> None:
    config = shared(0.1, training__precision=precision)
    engine = make_engine(config)
    plan = StepPlan(3, log_every=100, validate_every=None, checkpoint_every=None)
    run_step(config, plan, engine, [random_batch(12)], SingleProcess(), 0)
    price = engine.objective.network.policy.price_1.item()
    assert price > 1.1 * FIRST_PRICE
    engine.save(tmp_path)
    assert engine.network_weights()["policy.price_1"].item() == price
    other = make_engine(config, seed=1)
    assert other.objective.network.policy.price_1.item() == pytest.approx(FIRST_PRICE)
    other.load(tmp_path, engine.network_weights())
    assert other.objective.network.policy.price_1.item() == price
    for one in (engine, other):
        run_step(config, plan, one, [random_batch(12, 5)], SingleProcess(), 1)
    prices = [one.objective.network.policy.price_1.item() for one in (engine, other)]
    assert prices[0] == prices[1] != price
