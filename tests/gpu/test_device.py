"""A training step and a validation on a GPU give the numbers of the CPU, within float32's reach."""

import pytest
import torch

from skiprec.training.collectives import SingleProcess
from skiprec.training.engine import TorchEngine
from skiprec.training.loop import run_step
from skiprec.training.objective import Objective
from skiprec.training.optim import build_optimizer
from skiprec.training.plan import StepPlan
from skiprec.types import Pass
from tests.testkit.networks import POLICY_NAMES, build_network, random_batch, run_config

DEVICE = torch.device("cuda")
PLAN = StepPlan(total_steps=1, log_every=1, validate_every=None, checkpoint_every=None)
CONFIGS = {name: run_config(name, model__dropout=0.1) for name in ("none", *POLICY_NAMES)} | {
    "budget": run_config("gumbel", policy__target_keep_frac=0.2, policy__budget_weight=3.0),
    "personal": run_config(
        "gumbel",
        policy__target_keep_frac=0.2,
        policy__budget_weight=3.0,
        policy__budget="shared",
        policy__information_weight=0.5,
        policy__guide_weight=0.3,
    ),
    "gathered": run_config("random", training__execution="gathered"),
    "reinforce, gathered": run_config(
        "reinforce",
        training__execution="gathered",
        policy__entropy_weight=0.1,
        policy__free_blocks_frac=0.5,
    ),
    "cost, gathered": run_config("cost", training__execution="gathered"),
    "stochastic depth": run_config(model__stochastic_depth=0.5),
    "last position": run_config(loss__last_position_weight=0.5),
    "sampled": run_config(loss__kind="sampled", loss__num_negatives=20),
}


def engine_on(name: str, device: torch.device) -> TorchEngine:
    config = CONFIGS[name]
    network = build_network(config.model, config.policy)
    optimizer = build_optimizer(network.to(device), config.training)
    return TorchEngine(Objective(network, config), optimizer, config.training, device)


@pytest.mark.parametrize("name", CONFIGS)
def test_a_step_is_the_step_of_the_cpu(name: str) -> None:
    weights = []
    for device in (torch.device("cpu"), DEVICE):
        engine = engine_on(name, device)
        run_step(CONFIGS[name], PLAN, engine, [random_batch(12).to(device)], SingleProcess(), 0)
        weights.append(engine.network_weights())
    for key, expected in weights[0].items():
        # Adam's first step moves a weight by the rate (1e-3) times the sign of its gradient.
        differing = (weights[1][key] - expected).abs() > 1e-4
        assert differing.float().mean() < 0.01, key


@pytest.mark.parametrize("name", CONFIGS)
def test_validation_ranks_as_on_the_cpu(name: str) -> None:
    found = engine_on(name, DEVICE).forward(random_batch(20).to(DEVICE), Pass("validate"))
    expected = engine_on(name, torch.device("cpu")).forward(random_batch(20), Pass("validate"))
    for key, value in expected.items():
        assert found[key].device.type == DEVICE.type, f"{key} must be on the engine's device"
        torch.testing.assert_close(found[key].cpu(), value, rtol=1e-3, atol=1e-4)


def test_keyed_noise_is_the_same_on_every_device() -> None:
    batch, config = random_batch(50), CONFIGS["gumbel"]
    keeps = []
    for device in (torch.device("cpu"), DEVICE):
        network = build_network(config.model, config.policy).to(device)
        here = batch.to(device)
        keeps.append(network.decide(network.embed_batch(here), 1.0).keep_BL.cpu())
    assert (keeps[0] != keeps[1]).float().mean() < 0.01
