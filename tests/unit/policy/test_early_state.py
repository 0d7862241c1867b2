"""Policies that read the state after the first blocks, instead of the history."""

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from skiprec.evaluation.measure.compute_cost import measure_cost
from skiprec.inference.executor import recommend
from skiprec.network import SkipRecNetwork, keeping_first
from skiprec.policy.cost.training import (
    fitted_positions,
    nested_costs,
    nested_costs_of_positions,
)
from skiprec.policy.trunk import StateTrunk
from skiprec.training.objective import Objective
from skiprec.types import PADDING, Batch, KeepDecision, Pass
from tests.testkit.networks import (
    BACKBONE_NAMES,
    LEARNED,
    NUM_BLOCKS,
    WINDOW,
    build_network,
    model_config,
    policy_config,
    random_batch,
    run_config,
)

EARLY = 2
EXITS = (1, 2, NUM_BLOCKS)


def network_with(
    kind: str,
    backbone: str = "nextitnet_plus",
    exits: tuple[int, ...] | None = None,
    readouts: bool | None = None,
) -> SkipRecNetwork:
    sizes: dict[str, Any] = {"nest_sizes": (2, 3)} if kind == "cost" else {}
    policy = policy_config(kind, reads_after=EARLY, **sizes)
    return build_network(model_config(backbone, exits=exits, exit_readouts=readouts), policy).eval()


@pytest.mark.parametrize("kind", LEARNED)
@pytest.mark.parametrize("backbone", BACKBONE_NAMES)
@pytest.mark.parametrize(("exits", "readouts"), [(None, None), (EXITS, None), (EXITS, True)])
@pytest.mark.parametrize("execution", ["masked", "gathered"])
def test_running_on_from_the_state_gives_what_running_all_gives(
    kind: str,
    backbone: str,
    exits: tuple[int, ...] | None,
    readouts: bool | None,
    execution: str,
) -> None:
    network = network_with(kind, backbone, exits, readouts)
    batch = random_batch(12)
    with torch.inference_mode():
        history = network.embed_batch(batch)
        decision = network.decide(history)
        assert decision is not None
        assert decision.early is not None
        assert decision.early.depth == EARLY
        assert (decision.keep_BL[:, :EARLY] == 1).all()
        coin_BL = torch.rand(12, NUM_BLOCKS, generator=torch.Generator().manual_seed(3)) < 0.5
        decision = replace(decision, keep_BL=keeping_first(coin_BL.float(), EARLY))
        found_TBD = network.encode(history, decision, execution)
        expected_TBD = network.encode(history, replace(decision, early=None), execution)
    torch.testing.assert_close(found_TBD, expected_TBD, rtol=1e-5, atol=1e-5)


def test_the_first_blocks_run_once(monkeypatch: pytest.MonkeyPatch) -> None:
    network = network_with("gumbel")
    calls = []
    for index, block in enumerate(network.stack.blocks):
        forward = block.forward
        monkeypatch.setattr(
            block, "forward", lambda *a, i=index, f=forward: (calls.append(i), f(*a))[1]
        )
    items_BT = random_batch(1).input_BT
    with torch.inference_mode():
        recommend(network, items_BT, 3, False)
    assert calls[:EARLY] == [0, 1]
    assert sorted(calls) == sorted(set(calls)), "no block runs twice"


def test_the_policy_reads_the_last_state_and_the_length_and_nothing_else() -> None:
    network = network_with("cost")
    trunk = network.policy.trunk
    assert isinstance(trunk, StateTrunk)
    batch = random_batch(6)
    history = network.embed_batch(batch)
    x_TBD = history.x_TBD
    for index in range(EARLY):
        x_TBD = network.stack.run_block(index, x_TBD, history.context_TBC, history.key_B)
    length_B = (batch.input_BT != PADDING).sum(1)
    normed_BD = F.layer_norm(x_TBD[-1], x_TBD.shape[-1:])
    features_BF = torch.cat([normed_BD, length_B.log()[:, None]], 1)
    hidden_BD = (features_BF @ trunk.project.weight.t() + trunk.project.bias).clamp(min=0)
    output_BM = hidden_BD @ network.policy.head.weight.t() + network.policy.head.bias
    decision = network.decide(history)
    assert decision is not None
    torch.testing.assert_close(decision.cost_BM, output_BM - output_BM[:, -1:])


@pytest.mark.parametrize("readouts", [None, True])
def test_the_certainty_is_that_of_the_scores_of_the_state(readouts: bool | None) -> None:
    network = build_network(model_config(exits=EXITS, exit_readouts=readouts)).eval()
    history = network.embed_batch(random_batch(7))
    early = network.first_blocks(history, EARLY)
    found_N2 = network.certainty(network.output_after(early, last=True)[-1])
    normed_ND = network.prefixes(history, (EARLY,))[0]
    torch.testing.assert_close(network.output_after(early)[-1], normed_ND)
    prob_NV = (normed_ND @ network.head.weight_VD.t() + network.head.bias_V).softmax(1)
    for prob_V, (entropy, margin) in zip(prob_NV, found_N2.tolist(), strict=True):
        assert entropy == pytest.approx(-sum(p * math.log(p) for p in prob_V.tolist()), rel=1e-4)
        best, second = sorted(prob_V.tolist(), reverse=True)[:2]
        assert margin == pytest.approx(math.log(best / second), rel=1e-4)


@pytest.mark.parametrize(
    ("features", "moves"),
    [
        (("state",), {"state"}),
        (("length",), {"length"}),
        (("entropy",), {"state"}),
        (("margin", "length"), {"state", "length"}),
    ],
)
def test_a_policy_reads_the_features_that_it_names(
    features: tuple[str, ...], moves: set[str]
) -> None:
    policy = policy_config("cost", reads_after=EARLY, nest_sizes=(2, 3), features=features)
    network = build_network(model_config(), policy).eval()
    # Two histories of two items, and one of three that ends as the first does.
    items_BT = torch.tensor([[0, 0, 3, 7], [0, 0, 9, 4], [0, 5, 3, 7]])
    history = network.embed(items_BT, torch.arange(3))
    decision = network.decide(history)
    assert decision is not None
    assert decision.early is not None
    # The third row gets the state of the first, so that their lengths alone differ.
    x_TBD = decision.early.x_TBD[:, [0, 1, 0]]
    asks = network.policy.reads_scores
    certainty_B2 = network.certainty(x_TBD[-1]) if asks else None
    state = replace(history, x_TBD=x_TBD, certainty_B2=certainty_B2)
    cost_BM = network.policy(state, None).cost_BM
    assert (not torch.equal(cost_BM[0], cost_BM[1])) == ("state" in moves)
    assert (not torch.equal(cost_BM[0], cost_BM[2])) == ("length" in moves)


@pytest.mark.parametrize("backbone", BACKBONE_NAMES)
def test_costs_of_fitted_positions_are_those_of_requests_that_end_there(backbone: str) -> None:
    network = network_with("cost", backbone, exits=EXITS)
    batch, sizes = random_batch(5), (2, 3, 4)
    assert batch.times_BW is not None
    is_fitted_BT = fitted_positions(batch, network.counts_from_the_end)
    found_NM = nested_costs_of_positions(network, batch, is_fitted_BT.t(), sizes)
    expected = []
    for t in range(1, WINDOW):
        for row in range(5):
            if not is_fitted_BT[row, t - 1]:
                continue
            items, times = (
                F.pad(values_BW[row : row + 1, : t + 1], (WINDOW - 1 - t, 0))
                for values_BW in (batch.items_BW, batch.times_BW)
            )
            request = Batch(items, batch.key_B[:1], times)
            expected.append(nested_costs(network, request, sizes)[0])
    assert len(expected) >= 5
    torch.testing.assert_close(found_NM, torch.stack(expected), rtol=1e-3, atol=1e-4)
    assert found_NM[:, 0].abs().max() > 1e-2
    assert (found_NM[:, -1] == 0).all()


@pytest.mark.parametrize("features", [None, ["state", "length", "entropy", "margin"]])
def test_the_loss_is_the_squared_error_over_the_fitted_positions(
    features: list[str] | None,
) -> None:
    given = {"policy__reads_after": EARLY, "policy__nest_sizes": [2, 3]}
    config = run_config("cost", **given, policy__features=features)
    network = build_network(config.model, config.policy).double()
    batch = random_batch(12)
    pass_ = Pass("loss", 0, 1.0, batch.is_scored_BT.sum(), num_rows=12)
    sums = Objective(network, config)(batch, pass_)
    is_fitted_BT = fitted_positions(batch, network.counts_from_the_end)
    cost_NM = nested_costs_of_positions(network, batch, is_fitted_BT.t(), (2, 3, 4))
    predicted = []
    for t in range(WINDOW - 1):
        for row in range(12):
            if not is_fitted_BT[row, t]:
                continue
            cut_BT = F.pad(batch.input_BT[row : row + 1, : t + 1], (WINDOW - 2 - t, 0))
            history = network.embed(cut_BT, batch.key_B[row : row + 1])
            decision = network.decide(history)
            assert decision is not None
            assert decision.cost_BM is not None
            predicted.append(decision.cost_BM[0])
    error = (torch.stack(predicted) - cost_NM).square().mean(1).sum() / batch.is_scored_BT.sum()
    assert sums["cost_error"].item() / 12 == pytest.approx(error.item(), rel=1e-5)


def test_positions_that_do_not_look_like_the_end_of_a_request_are_left_out() -> None:
    items_BW = torch.tensor([[0, 0, 1, 2, 3, 4], [5, 6, 7, 8, 9, 1], [0, 0, 0, 0, 0, 2]])
    batch = Batch(items_BW, torch.arange(3))
    padded, cut, no_target = fitted_positions(batch, counts_from_the_end=False).tolist()
    assert padded == [False, False, True, True, True]
    assert cut == [False] * 4 + [True], "the row may have been cut"
    assert no_target == [False] * 5
    ends = replace(batch, num_scored_B=torch.tensor([2, 9, 1]))
    found = fitted_positions(ends, counts_from_the_end=False).tolist()
    assert found == [[False] * 3 + [True] * 2, cut, no_target]
    last = [[False] * 4 + [True]] * 2
    assert fitted_positions(batch, counts_from_the_end=True).tolist() == [*last, no_target]


def test_the_policy_is_fitted_on_states_without_dropout() -> None:
    config = run_config("cost", policy__reads_after=EARLY, policy__nest_sizes=[2, 3])
    dropped = run_config(
        "cost", policy__reads_after=EARLY, policy__nest_sizes=[2, 3], model__dropout=0.5
    )
    batch = random_batch(12)
    errors = []
    for each in (config, dropped):
        network = build_network(each.model, each.policy).train()
        pass_ = Pass("loss", 0, 1.0, batch.is_scored_BT.sum(), num_rows=12)
        errors.append(Objective(network, each)(batch, pass_)["cost_error"].item())
    assert errors[0] == errors[1]


@pytest.mark.parametrize(("exits", "readouts"), [(None, None), (EXITS, None), (EXITS, True)])
def test_the_first_blocks_are_no_cost_of_the_policy(
    exits: tuple[int, ...] | None, readouts: bool | None
) -> None:
    model = model_config(exits=exits, exit_readouts=readouts)
    plain = measure_cost(build_network(model).eval(), WINDOW - 1, 5)
    policies = {
        features: policy_config("cost", reads_after=EARLY, nest_sizes=(2, 3), features=features)
        for features in (("state", "length"), ("length", "entropy"))
    }
    found = {
        features: measure_cost(build_network(model, policy).eval(), WINDOW - 1, 5)
        for features, policy in policies.items()
    }
    for cost in found.values():
        assert cost.block_L == plain.block_L
    by_state, by_entropy = (cost.policy for cost in found.values())
    assert 0 < by_state < plain.block_L[0]
    assert by_entropy - by_state > 0.5 * plain.head, "it asks the head"


def test_a_given_decision_runs_from_the_embedding() -> None:
    """Rivals such as a fixed set may leave out the first blocks."""
    network = network_with("gumbel")
    batch = random_batch(4)
    history = network.embed_batch(batch)
    none = KeepDecision(torch.zeros(4, NUM_BLOCKS), None)
    assert torch.equal(network.encode(history, none, "masked"), history.x_TBD)


def test_the_learned_curve_keeps_the_first_blocks_at_every_setting() -> None:
    network = network_with("gumbel")
    decision = network.decide(network.embed(random_batch(60).input_BT, torch.arange(60)))
    assert decision is not None
    assert decision.prob_BL is not None
    for point in network.policy.knob.points(decision.prob_BL.detach().numpy()):
        assert point.keep_RL[:, :EARLY].all()
        assert 0 <= point.setting < 1


def test_a_policy_that_is_certain_of_every_block_keeps_them_at_every_setting() -> None:
    points = network_with("gumbel").policy.knob.points(np.ones((3, NUM_BLOCKS), np.float32))
    assert all(point.keep_RL.all() for point in points)


def test_the_initial_scale_leaves_the_norms_of_exits_alone() -> None:
    network = build_network(model_config(exits=EXITS, initial_scale=3.0), awake=False)
    assert (network.exits.weight_MD == 1).all()


def fitted(features: tuple[str, ...], value_BF: Tensor, cost_B: Tensor) -> Tensor:
    """What a trunk with a linear head says after 500 steps of Adam on these rows."""
    trunk = StateTrunk(features, 32, 4)  # type: ignore[arg-type]
    generator = torch.Generator().manual_seed(0)
    trunk.reset_parameters(generator)
    head = torch.nn.Linear(32, 1)
    torch.nn.init.normal_(head.weight, std=0.02, generator=generator)
    torch.nn.init.zeros_(head.bias)
    optimizer = torch.optim.Adam([*trunk.parameters(), *head.parameters()], 3e-3)
    for _ in range(500):
        found_B = head(trunk.hidden(torch.zeros(len(cost_B), 4), value_BF[:, :1], value_BF))[:, 0]
        optimizer.zero_grad()
        (found_B - cost_B).square().mean().backward()
        optimizer.step()
    return found_B.detach()


@pytest.mark.parametrize("feature", ["length", "entropy"])
def test_a_policy_can_learn_that_depth_pays_in_the_middle(feature: str) -> None:
    """On games of chess depth is worth most behind 10 to 25 moves, and little elsewhere."""
    length_B = torch.arange(1.0, 50.0)
    x_B = length_B if feature == "length" else 8 * length_B / 49
    cost_B = torch.exp(-((x_B / x_B.max() - 0.3).square()) / 0.05)
    found_B = fitted((feature,), torch.stack([x_B, torch.zeros(49)], 1), cost_B)
    assert (found_B - cost_B).square().mean() < 0.08 * cost_B.var()
