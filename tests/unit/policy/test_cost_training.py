"""Training of the cost policy: the measured costs, and which weights get a gradient."""

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from skiprec import ranking
from skiprec.network import SkipRecNetwork
from skiprec.policy.cost.training import nested_costs
from skiprec.policy.training import policy_training
from skiprec.ranking import lost_reciprocal_rank, row_cross_entropy
from skiprec.training.objective import Objective
from skiprec.types import PADDING, Batch, KeepDecision, Pass
from tests.testkit.networks import (
    NUM_ITEMS,
    WINDOW,
    build_network,
    model_config,
    policy_config,
    random_batch,
    run_config,
    take_rows,
)

SIZES = (1, 2, 4)


def network_with(**options: Any) -> SkipRecNetwork:
    return build_network(model_config(dropout=0.5), policy_config("cost", **options)).train()


def lost_rank(score_BV: Tensor, target_B: Tensor) -> Tensor:
    """Minus 1 / rank of one target, 0 behind rank 20, by sorting."""
    order = sorted(range(NUM_ITEMS), key=lambda item: (-float(score_BV[0, item]), item))
    rank = 1 + order.index(int(target_B))
    return torch.tensor(-1 / rank if rank <= 20 else 0.0)


@torch.no_grad()
def slow_costs(
    network: SkipRecNetwork,
    batch: Batch,
    cost: Callable[[Tensor, Tensor], Tensor] = F.cross_entropy,
) -> Tensor:
    """The costs from running each set as its own decision, row by row, masked, without dropout."""
    network.eval()
    rows = []
    for row in range(len(batch.items_BW)):
        one = take_rows(batch, slice(row, row + 1))
        history = network.embed_batch(one)
        entropies = []
        for size in SIZES:
            keep_BL = (torch.arange(4) < size).float()[None]
            x_TBD = network.encode(history, KeepDecision(keep_BL, None), "masked")
            score_BV = x_TBD[-1] @ network.head.weight_VD.t() + network.head.bias_V
            entropies.append(cost(score_BV, one.items_BW[:, -1] - 1))
        rows.append(torch.stack(entropies) - entropies[-1])
    network.train()
    return torch.stack(rows)


@pytest.mark.parametrize("max_scores", [1, 7 * NUM_ITEMS, 2**24])
def test_costs_are_those_of_each_set_run_by_itself(
    max_scores: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ranking, "MAX_SCORES", max_scores)  # scores are made in chunks of rows
    network, batch = network_with(), random_batch(30)
    actual_BM = nested_costs(network, batch, SIZES)
    assert network.training, "dropout is on again"
    assert not actual_BM.requires_grad
    torch.testing.assert_close(actual_BM, slow_costs(network, batch), rtol=1e-4, atol=1e-5)
    assert (actual_BM[:, -1] == 0).all()
    assert actual_BM[:, 0].std() > 0.1, "the costs of rows must differ"


@pytest.mark.parametrize("max_scores", [1, 7 * NUM_ITEMS, 2**24])
def test_costs_can_be_what_a_row_loses_of_the_mrr(
    max_scores: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ranking, "MAX_SCORES", max_scores)
    network, batch = network_with(), random_batch(30)
    actual_BM = nested_costs(network, batch, SIZES, lost_reciprocal_rank)
    torch.testing.assert_close(actual_BM, slow_costs(network, batch, lost_rank))
    assert (actual_BM != 0).any(0).tolist() == [True, True, False]
    use = partial(lost_reciprocal_rank, target_N=torch.tensor([0]))
    assert network.head(torch.ones(1, 8), use).tolist() == [0], "a row without a target"


def test_the_policy_learns_the_costs_in_which_it_is_asked_to_learn_them() -> None:
    batch = random_batch(20)
    errors = []
    for cost_in, row_cost in ((None, row_cross_entropy), ("reciprocal_rank", lost_reciprocal_rank)):
        config = run_config("cost", policy__cost_in=cost_in)
        network = build_network(config.model, config.policy)
        sums = Objective(network, config)(batch, loss_pass(batch))
        decision = network.decide(network.embed_batch(batch), 0.5)
        assert decision is not None
        assert decision.cost_BM is not None
        cost_BM = nested_costs(network, batch, network.policy.sizes, row_cost)
        expected = (decision.cost_BM - cost_BM).square().mean(1).sum().item()
        assert sums["cost_error"].item() == pytest.approx(expected, rel=1e-5)
        errors.append(expected)
    assert errors[0] != pytest.approx(errors[1], rel=0.1)


def test_a_row_without_a_target_costs_nothing() -> None:
    network, batch = network_with(), random_batch(4)
    items_BW = batch.items_BW.clone()
    items_BW[1, -1] = PADDING  # the row has a history, so its sets give different scores
    actual_BM = nested_costs(network, Batch(items_BW, batch.key_B), SIZES)
    assert (actual_BM[1] == 0).all()
    rest = [0, 2, 3]
    expected = nested_costs(network, take_rows(batch, rest), SIZES)
    torch.testing.assert_close(actual_BM[rest], expected)
    none = nested_costs(network, Batch(torch.zeros(0, WINDOW).long(), torch.zeros(0).long()), SIZES)
    assert none.shape == (0, 3), "a rank may have no rows in a pass"


def test_each_row_has_its_own_cross_entropy() -> None:
    network = network_with()
    x_ND = torch.randn(9, 8, generator=torch.Generator().manual_seed(0))
    target_N = torch.arange(1, 10)
    actual_N = network.head(x_ND, lambda x, scores: row_cross_entropy(x, scores, target_N=target_N))
    score_NV = x_ND @ network.head.weight_VD.t() + network.head.bias_V
    expected_N = F.cross_entropy(score_NV, target_N - 1, reduction="none")
    torch.testing.assert_close(actual_N, expected_N.detach())
    assert len(set(actual_N.tolist())) == 9


def loss_pass(batch: Batch) -> Pass:
    return Pass("loss", 0, 0.5, batch.is_scored_BT.sum(), len(batch.items_BW))


def gradients(loss: Tensor, network: SkipRecNetwork) -> dict[str, Tensor | None]:
    names, parameters = zip(*network.named_parameters(), strict=True)
    values = torch.autograd.grad(loss, parameters, allow_unused=True)
    return dict(zip(names, values, strict=True))


def parts_with_gradient(gradient: dict[str, Tensor | None]) -> set[str]:
    return {
        name.partition(".")[0]
        for name, value in gradient.items()
        if value is not None and bool((value != 0).any())
    }


@pytest.mark.parametrize("own", [True, False], ids=["own embedding", "slim"])
def test_the_predictor_learns_the_squared_error_and_nobody_else_does(own: bool) -> None:
    config = run_config("cost", policy__own_embedding=own, policy__cost_weight=0.6)
    network = build_network(model_config(dropout=0.5), config.policy).train()
    batch = random_batch(20)

    def decision() -> KeepDecision:
        decided = network.decide(network.embed_batch(batch), 0.5)
        assert decided is not None
        return decided

    loss, sums = policy_training(config, network).loss(batch, decision(), loss_pass(batch))
    true_BM = slow_costs(network, batch)
    expected = 0.6 * (decision().cost_BM - true_BM).square().mean()
    torch.testing.assert_close(loss, expected, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(0.6 * sums["cost_error"] / 20, expected.detach())
    torch.testing.assert_close(sums["cost_of_smallest"], true_BM[:, 0].sum(), rtol=1e-4, atol=1e-4)
    actual, wanted = gradients(loss, network), gradients(expected, network)
    for name, value in wanted.items():
        torch.testing.assert_close(actual[name], value, rtol=1e-3, atol=1e-5, msg=name)
    assert parts_with_gradient(actual) == ({"policy"} if own else {"policy", "embedding"})


def test_the_backbone_learns_from_the_sets_that_rows_were_given() -> None:
    """Blocks that no row runs get no gradient, and the predictor gets none from cross-entropy."""
    config = run_config("cost", policy__explore_frac=0.0, policy__own_embedding=True)
    network, batch = build_network(config.model, config.policy), random_batch(20)
    network.policy.price_1.fill_(1e4)  # every row takes one block
    gradient = gradients(Objective(network, config)(batch, loss_pass(batch))["loss"], network)
    assert {"stack", "head", "embedding", "policy"} == parts_with_gradient(gradient)
    stack = {name: value for name, value in gradient.items() if name.startswith("stack.")}
    for name, value in stack.items():
        is_first = name.startswith("stack.blocks.0.")
        assert (value is not None and bool((value != 0).any())) == is_first, name


def test_masked_and_gathered_give_the_same_loss_and_gradient() -> None:
    def run(execution: str, seed: int = 0) -> tuple[Tensor, dict[str, Tensor | None]]:
        config = run_config("cost", training__execution=execution, model__dropout=0.3)
        network = build_network(config.model, config.policy, seed).double().train()
        batch = random_batch(24)
        loss = Objective(network, config)(batch, loss_pass(batch))["loss"]
        return loss, gradients(loss, network)

    (masked, masked_gradient), (gathered, gathered_gradient) = run("masked"), run("gathered")
    torch.testing.assert_close(gathered, masked, rtol=1e-9, atol=0)
    for name, expected in masked_gradient.items():
        torch.testing.assert_close(gathered_gradient[name], expected, rtol=1e-7, atol=1e-10)
    assert abs(run("gathered", seed=1)[0] - masked) > 1e-3
