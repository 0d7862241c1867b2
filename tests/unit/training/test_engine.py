"""The reference engine against plain torch, and the groups of the optimizer."""

from pathlib import Path

import pytest
import torch

from skiprec.config.training import TrainingConfig
from skiprec.training.optim import build_optimizer, set_learning_rates
from skiprec.types import Pass
from tests.testkit.networks import (
    build_network,
    model_config,
    policy_config,
    random_batch,
    run_config,
)
from tests.testkit.steps import make_engine


def loss_pass(rows: int = 12) -> Pass:
    return Pass("loss", 0, 1.0, torch.tensor(50.0), rows, {"sampled": torch.tensor(2.0 * rows)})


def test_a_step_is_a_step_of_adamw() -> None:
    config = run_config(training__learning_rate=0.01, training__weight_decay=0.1)
    engine, plain = make_engine(config), make_engine(config).objective
    optimizer = torch.optim.AdamW(plain.parameters(), lr=0.005, weight_decay=0.1)
    for seed in range(3):
        batch = random_batch(12, seed)
        engine.forward_backward(batch, loss_pass())
        engine.step(0.5)
        optimizer.zero_grad()
        plain(batch, loss_pass())["loss"].backward()
        optimizer.step()
    for (name, actual), expected in zip(
        engine.objective.named_parameters(), plain.parameters(), strict=True
    ):
        torch.testing.assert_close(actual, expected, msg=name)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_gradient_is_clipped_to_its_norm_and_the_norm_reported_is_from_before(
    precision: str,
) -> None:
    free = make_engine(run_config(training__precision=precision))
    free.forward_backward(random_batch(12), loss_pass())
    norm = float(free.step(1.0)["grad_norm"])
    assert norm > 0
    clipped = make_engine(run_config(training__precision=precision, training__grad_clip_norm=0.01))
    seen = {}
    clipped.optimizer.register_step_pre_hook(
        lambda optimizer, *_: seen.update(
            norm=torch.nn.utils.get_total_norm(
                [p.grad for g in optimizer.param_groups for p in g["params"] if p.grad is not None]
            )
        )
    )
    clipped.forward_backward(random_batch(12), loss_pass())
    assert float(clipped.step(1.0)["grad_norm"]) == pytest.approx(norm)
    assert seen["norm"].item() == pytest.approx(0.01, rel=1e-3)


def test_gradients_do_not_outlive_their_step() -> None:
    engine = make_engine(run_config())
    engine.forward_backward(random_batch(12), loss_pass())
    engine.step(1.0)
    assert all(parameter.grad is None for parameter in engine.objective.parameters())


def test_bf16_adds_up_updates_that_bf16_weights_would_lose() -> None:
    config = run_config(training__precision="bf16", training__learning_rate=1e-5)
    engine = make_engine(config)
    weight = engine.objective.network.head.weight_VD
    assert weight.dtype == torch.bfloat16
    before = engine.masters[weight].detach().clone()
    engine.forward_backward(random_batch(12), loss_pass())
    engine.step(1.0)
    master = engine.masters[weight]
    assert master.dtype == torch.float32
    moved = master != before
    assert moved.any()
    assert (master.bfloat16()[moved] == before.bfloat16()[moved]).any(), (
        "a change that is too small for bf16"
    )


def test_bf16_computes_with_its_masters_rounded() -> None:
    engine = make_engine(run_config(training__precision="bf16", training__learning_rate=0.1))
    before = engine.network_weights()
    engine.forward_backward(random_batch(12), loss_pass())
    engine.step(1.0)
    for weight, master in engine.masters.items():
        assert torch.equal(weight, master.bfloat16())
    assert not torch.equal(engine.network_weights()["head.weight_VD"], before["head.weight_VD"])


def test_validation_turns_dropout_off_and_the_loss_turns_it_on() -> None:
    engine = make_engine(run_config(model__dropout=0.5))
    engine.forward(random_batch(4), Pass("validate"))
    assert not engine.objective.training
    engine.forward_backward(random_batch(4), loss_pass())
    assert engine.objective.training


def test_forward_leaves_no_gradient() -> None:
    engine = make_engine(run_config("gumbel"))
    out = engine.forward(random_batch(4), Pass("statistics", 0, 1.0))
    assert not out["sampled"].requires_grad


def test_load_brings_back_weights_and_moments(tmp_path: Path) -> None:
    engine = make_engine(run_config())
    engine.forward_backward(random_batch(12), loss_pass())
    engine.step(1.0)
    engine.save(tmp_path)
    other = make_engine(run_config(), seed=1)
    other.load(tmp_path, engine.network_weights())
    for one in (engine, other):
        one.forward_backward(random_batch(12, 5), loss_pass())
        one.step(1.0)
    ended, resumed = engine.network_weights(), other.network_weights()
    assert all(torch.equal(ended[name], resumed[name]) for name in ended)


def test_backbone_and_policy_are_named_groups_with_rates_of_their_own() -> None:
    network = build_network(model_config(), policy_config("gumbel"))
    optimizer = build_optimizer(
        network, TrainingConfig(learning_rate=0.01, policy_learning_rate=0.002)
    )
    groups = {group["name"]: group for group in optimizer.param_groups}
    assert groups.keys() == {"backbone", "policy"}
    policy = {id(parameter) for parameter in network.policy.parameters()}
    assert {id(parameter) for parameter in groups["policy"]["params"]} == policy
    everything = {id(parameter) for parameter in network.parameters()}
    assert {id(parameter) for parameter in groups["backbone"]["params"]} == everything - policy
    assert set_learning_rates(optimizer, 0.5) == {"backbone": 0.005, "policy": 0.001}
    assert set_learning_rates(optimizer, 1.0) == {"backbone": 0.01, "policy": 0.002}


def test_the_policy_s_rate_is_the_backbone_s_unless_said_otherwise() -> None:
    network = build_network(model_config(), policy_config("gumbel"))
    optimizer = build_optimizer(network, TrainingConfig(learning_rate=0.01))
    assert {group["base_lr"] for group in optimizer.param_groups} == {0.01}


def test_a_network_without_weights_of_a_policy_has_one_group() -> None:
    for policy in (None, policy_config("random")):
        optimizer = build_optimizer(build_network(model_config(), policy), TrainingConfig())
        assert [group["name"] for group in optimizer.param_groups] == ["backbone"]
