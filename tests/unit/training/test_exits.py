"""The loss of the shallower exits beside a slow and obvious one, and what a step draws."""

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from skiprec.config.loss import LossConfig
from skiprec.scores import DotProduct
from skiprec.training import exits
from skiprec.training.exits import (
    ExitTerms,
    are_trained,
    drawn_exits,
    drawn_positions,
    full_softmax_of_exits,
    sampled_softmax_of_exits,
    terms_of,
)
from skiprec.training.losses import Negatives, log_uniform_prob
from skiprec.training.objective import Objective
from skiprec.training.stochastic_depth import kept_at_random
from skiprec.types import Batch, Pass
from tests.testkit.networks import build_network, random_batch, run_config
from tests.testkit.runs import (
    build_smoke_data,
    metric,
    policy_overrides,
    smoke_config,
    train_here,
)

ITEMS, WIDTH, POSITIONS, EXITS = 40, 5, 11, 2
TERMS = {
    "both": ExitTerms(0.7, 0.4, 1.0),
    "warm": ExitTerms(0.7, 0.4, 2.5),
    "no distillation": ExitTerms(0.7, 0.0, 1.0),
}


def inputs(dtype: torch.dtype = torch.float64) -> list[torch.Tensor]:
    """States of the teacher and of the exits, item vectors, biases; then targets."""
    generator = torch.Generator().manual_seed(0)
    shapes = ((EXITS + 1, POSITIONS, WIDTH), (ITEMS, WIDTH), (ITEMS,))
    drawn = [torch.randn(shape, generator=generator, dtype=dtype) for shape in shapes]
    return [tensor.requires_grad_() for tensor in drawn]


TARGET_N = torch.arange(1, POSITIONS + 1) * 3


def slow_terms(score_MNC: torch.Tensor, column_N: torch.Tensor, terms: ExitTerms) -> torch.Tensor:
    """The definition, exit by exit and position by position; the teacher comes first."""
    total = score_MNC.new_zeros(())
    t = terms.temperature
    for score_NC in score_MNC[1:]:
        for position, column in enumerate(column_N.tolist()):
            student, teacher = score_NC[position], score_MNC[0, position].detach()
            total = total + terms.weight * F.cross_entropy(student, torch.tensor(column))
            p_teacher = (teacher / t).softmax(0)
            near = p_teacher > 0
            cross = -(p_teacher[near] * (student / t).log_softmax(0)[near]).sum()
            total = total + terms.distillation * t**2 * cross
    return total


@pytest.mark.parametrize("name", TERMS)
@pytest.mark.parametrize("rows", [1, 4, 128])
def test_the_full_softmax_is_the_definition_and_so_is_its_gradient(
    name: str, rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exits, "CHUNK_SCORES", 1)
    monkeypatch.setattr(exits, "LEAST_ROWS", rows)
    x_MND, weight_VD, bias_V = inputs()
    found = full_softmax_of_exits(
        x_MND.flatten(0, 1),
        DotProduct(weight_VD, bias_V),
        num_exits=EXITS,
        target_N=TARGET_N,
        terms=TERMS[name],
    )
    score_MNV = x_MND[1:] @ weight_VD.t() + bias_V
    teacher_1NV = (x_MND[:1] @ weight_VD.t() + bias_V).detach()
    expected = slow_terms(torch.cat([teacher_1NV, score_MNV]), TARGET_N - 1, TERMS[name])
    torch.testing.assert_close(found, expected)
    gradients = torch.autograd.grad(2 * found, (x_MND, weight_VD, bias_V))
    wanted = torch.autograd.grad(2 * expected, (x_MND, weight_VD, bias_V))
    for actual, other in zip(gradients, wanted, strict=True):
        torch.testing.assert_close(actual, other)
    assert (gradients[0][0] == 0).all(), "the teacher is a constant"


@pytest.mark.parametrize("name", TERMS)
@pytest.mark.parametrize("is_uniform", [False, True])
def test_the_sampled_softmax_is_the_definition(name: str, is_uniform: bool) -> None:
    x_MND, weight_VD, bias_V = inputs(torch.float32)
    negative_S = torch.tensor([3, 9, 9, 40, 1, 20])  # two of them are targets
    found = sampled_softmax_of_exits(
        x_MND.flatten(0, 1),
        DotProduct(weight_VD, bias_V),
        num_exits=EXITS,
        target_N=TARGET_N,
        negatives=Negatives(negative_S[None], uniform=is_uniform),
        terms=TERMS[name],
    )
    score_MNV = x_MND @ weight_VD.t() + bias_V
    prob_S = torch.full((6,), 1 / ITEMS) if is_uniform else log_uniform_prob(negative_S, ITEMS)
    correction_S = (prob_S * len(negative_S)).log()
    score_MNS = score_MNV[..., negative_S - 1] - correction_S
    score_MNS = score_MNS.masked_fill(TARGET_N[:, None] == negative_S, -torch.inf)
    own_MN1 = score_MNV.gather(2, (TARGET_N - 1).expand(EXITS + 1, -1)[..., None])
    expected = slow_terms(
        torch.cat([own_MN1, score_MNS], 2), torch.zeros(POSITIONS, dtype=torch.int64), TERMS[name]
    )
    torch.testing.assert_close(found, expected)
    for gradient in torch.autograd.grad(found, (x_MND, weight_VD, bias_V)):
        assert gradient.isfinite().all()


def test_bf16_is_near() -> None:
    exact = inputs(torch.float32)
    results = []
    for dtype in (torch.float32, torch.bfloat16):
        x_MND, weight_VD, bias_V = (t.detach().to(dtype).requires_grad_() for t in exact)
        loss = full_softmax_of_exits(
            x_MND.flatten(0, 1),
            DotProduct(weight_VD, bias_V),
            num_exits=EXITS,
            target_N=TARGET_N,
            terms=TERMS["both"],
        )
        gradients = torch.autograd.grad(loss, (x_MND, weight_VD, bias_V))
        assert all(g.dtype == dtype for g in gradients)
        results.append([loss.detach(), *gradients])
    for plain, rounded in zip(*results, strict=True):
        assert (plain - rounded.float()).norm() < 0.02 * plain.norm()


def test_a_step_draws_the_first_exit_and_another_one() -> None:
    drawn = [drawn_exits(5, key, LossConfig()) for key in range(200)]
    assert {first for first, _ in drawn} == {0}
    assert {second for _, second in drawn} == {1, 2, 3}
    assert drawn_exits(5, 0, LossConfig(exits_per_step="all")) == [0, 1, 2, 3]
    assert drawn_exits(2, 7, LossConfig()) == [0]


def test_positions_are_drawn_for_each_row_by_its_key() -> None:
    key_B = torch.arange(400)
    drawn_BT = drawn_positions(key_B, 20, LossConfig())
    assert drawn_BT.shape == (400, 20)
    assert abs(drawn_BT.float().mean() - 0.5) < 0.02
    assert torch.equal(drawn_positions(key_B[7:9], 20, LossConfig()), drawn_BT[7:9])
    assert drawn_positions(key_B, 20, LossConfig(exit_positions=1.0)).all()


def test_distillation_grows_over_the_first_part_of_the_training() -> None:
    grown = [terms_of(LossConfig(), progress).distillation for progress in (0, 0.1, 0.2, 1)]
    assert grown == [0, 0.25, 0.5, 0.5]
    assert terms_of(LossConfig(distillation_ramp=0.0), 0.0).distillation == 0.5
    assert terms_of(LossConfig(distillation=0.0), 1.0).distillation == 0


def test_distillation_grows_from_where_the_exits_begin() -> None:
    loss = LossConfig(exits_from=0.5, distillation_ramp=0.2)
    grown = [terms_of(loss, progress).distillation for progress in (0.5, 0.6, 0.7, 1)]
    assert grown == pytest.approx([0, 0.25, 0.5, 0.5])
    trained = [are_trained(loss, progress) for progress in (0, 0.49, 0.5, 1)]
    assert trained == [False, False, True, True]
    assert are_trained(LossConfig(), 0.0)


def test_before_the_exits_begin_a_step_trains_the_last_one_alone() -> None:
    batch = random_batch(12)
    late = {"loss__exits_from": 0.5, "loss__distillation": 0.0}
    alone = loss_of(batch, progress=0.49, **late)
    assert loss_of(batch, progress=0.5, **late) == loss_of(batch, loss__distillation=0.0)
    nearly = [loss_of(batch, loss__distillation=0.0, loss__exit_weight=w) for w in (1e-9, 1.0)]
    assert alone == pytest.approx(nearly[0], abs=1e-7)
    assert abs(alone - nearly[1]) > 0.1


def test_a_run_in_which_the_exits_begin_late(tmp_path: Path) -> None:
    changes = (
        "model.exits=[2,4]",
        "loss.exits_from=0.5",
        "training.engine=torch",
        "training.execution=dense",
    )
    without_policy = policy_overrides("none")
    config = smoke_config(tmp_path, build_smoke_data(tmp_path), *without_policy, *changes)
    state = train_here(config)
    assert state.step == 10
    assert len(metric(config, "train/loss")) == 10
    assert len(metric(config, "train/exit_loss")) == 5


def loss_of(batch: Batch, progress: float = 1.0, **changes: Any) -> float:
    config = run_config(model__exits=[1, 3], model__num_blocks=3, **changes)
    network = build_network(config.model).double()
    pass_ = Pass("loss", 0, progress, batch.is_scored_BT.sum(), num_rows=12)
    return Objective(network, config)(batch, pass_)["loss"].item()


@pytest.mark.parametrize("teacher", ["last", "mean"])
@pytest.mark.parametrize("rate", [None, 0.9])
def test_the_teacher_and_stochastic_depth_are_those_of_the_definition(
    teacher: str, rate: float | None
) -> None:
    batch = random_batch(12)
    config = run_config(
        model__exits=[1, 2, 3],
        model__num_blocks=3,
        model__stochastic_depth=rate,
        loss__teacher=teacher,
        loss__exit_positions=1.0,
        loss__distillation_ramp=0.0,
    )
    network = build_network(config.model).double().train()
    pass_ = Pass("loss", 0, 1.0, batch.is_scored_BT.sum(), num_rows=12)
    found = Objective(network, config)(batch, pass_)["loss"].item()
    left_out = None if rate is None else kept_at_random(batch.key_B, rate, 3)
    x_MTBD = network.states(network.embed_batch(batch), left_out, (1, 2, 3))
    is_scored_TB = batch.is_scored_BT.t()
    score_MNV = F.linear(x_MTBD[:, is_scored_TB], network.head.weight_VD, network.head.bias_V)
    column_N = batch.target_BT.t()[is_scored_TB] - 1
    teacher_1NV = score_MNV[-1:] if teacher == "last" else score_MNV.mean(0, keepdim=True)
    terms = ExitTerms(0.5, 0.5, 1.0)
    of_exits = slow_terms(torch.cat([teacher_1NV, score_MNV[:2]]), column_N, terms)
    expected = F.cross_entropy(score_MNV[-1], column_N) + of_exits / len(column_N)
    assert found == pytest.approx(expected.item())


def test_before_the_exits_begin_stochastic_depth_trains_the_last_norm_alone() -> None:
    config = run_config(
        model__exits=[1, 2, 3],
        model__num_blocks=3,
        model__stochastic_depth=0.9,
        loss__exits_from=0.5,
    )
    network = build_network(config.model).train()
    batch = random_batch(12)
    pass_ = Pass("loss", 0, 0.1, batch.is_scored_BT.sum(), num_rows=12)
    Objective(network, config)(batch, pass_)["loss"].backward()
    assert network.exits is not None
    gradient_M = network.exits.weight_MD.grad.abs().sum(1)
    assert gradient_M[:2].tolist() == [0, 0]
    assert gradient_M[2] > 0


def test_the_loss_of_a_run_is_that_of_the_last_exit_plus_the_weighted_others() -> None:
    batch = random_batch(12)
    everywhere = {"loss__exit_positions": 1.0, "loss__distillation": 0.0}
    one, two = (loss_of(batch, loss__exit_weight=w, **everywhere) for w in (1.0, 2.0))
    config = run_config(model__exits=[1, 3], model__num_blocks=3)
    network = build_network(config.model).double()
    history = network.embed_batch(batch)
    x_MTBD = network.states(history, None, (1, 3))
    is_scored_TB = batch.is_scored_BT.t()
    of_exits = [
        F.cross_entropy(
            F.linear(x_TBD[is_scored_TB], network.head.weight_VD, network.head.bias_V),
            batch.target_BT.t()[is_scored_TB] - 1,
        ).item()
        for x_TBD in x_MTBD
    ]
    assert two - one == pytest.approx(of_exits[0])
    assert one - of_exits[0] == pytest.approx(of_exits[1])
    some = loss_of(batch, loss__exit_positions=0.5, loss__distillation=0.0)
    assert abs(some - (of_exits[1] + 0.5 * of_exits[0])) > 1e-6, "the control: fewer positions"
