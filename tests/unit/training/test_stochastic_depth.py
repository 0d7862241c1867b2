"""Stochastic depth: how often blocks are left out, of which rows, and never in evaluation."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from skiprec.config.run import RunConfig
from skiprec.network import SkipRecNetwork
from skiprec.training.objective import Objective
from skiprec.training.stochastic_depth import kept_at_random
from skiprec.types import Batch, Pass
from tests.testkit.networks import NUM_BLOCKS, build_network, random_batch, run_config
from tests.testkit.steps import make_engine

NUM_ROWS = 20_000


def keys(num: int = NUM_ROWS) -> Tensor:
    return torch.randint(-(2**62), 2**62, (num,), generator=torch.Generator().manual_seed(2))


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
def test_the_rate_grows_evenly_to_its_value_at_the_last_block(rate: float) -> None:
    keep_BL = kept_at_random(keys(), rate, 5).keep_BL
    assert ((keep_BL == 0) | (keep_BL == 1)).all()
    kept_L = torch.tensor(
        [1 - rate / 5, 1 - 2 * rate / 5, 1 - 3 * rate / 5, 1 - 4 * rate / 5, 1 - rate]
    )
    sigma_L = (kept_L * (1 - kept_L) / NUM_ROWS) ** 0.5
    assert ((keep_BL.mean(0) - kept_L).abs() < 4 * sigma_L).all()
    off_diagonal = torch.corrcoef(keep_BL.t()) - torch.eye(5)
    assert off_diagonal.abs().max() < 5 / NUM_ROWS**0.5, "blocks are left out independently"


def test_what_a_row_leaves_out_belongs_to_its_key() -> None:
    whole = kept_at_random(keys(40), 0.5, NUM_BLOCKS).keep_BL
    assert torch.equal(kept_at_random(keys(40)[9:12], 0.5, NUM_BLOCKS).keep_BL, whole[9:12])
    assert not torch.equal(kept_at_random(keys(40) + 1, 0.5, NUM_BLOCKS).keep_BL, whole)


def dropping() -> RunConfig:
    return run_config(model__stochastic_depth=0.8, model__dropout=0.2)


def loss_pass(batch: Batch) -> Pass:
    return Pass("loss", 0, 0.5, batch.is_scored_BT.sum(), len(batch.items_BW))


def gradients(loss: Tensor, network: SkipRecNetwork) -> list[Tensor]:
    return list(torch.autograd.grad(loss, list(network.parameters())))


def test_loss_and_gradient_are_those_of_masked_execution_with_these_decisions() -> None:
    config, batch = dropping(), random_batch(20)
    network = build_network(config.model).double()
    objective = Objective(network, config).train()
    loss = objective(batch, loss_pass(batch))["loss"]

    def plain(execution: str) -> Tensor:
        history = network.embed_batch(batch)
        decision = kept_at_random(batch.key_B, 0.8, NUM_BLOCKS)
        assert 0.2 < decision.keep_BL.mean() < 0.8
        x_TBD = network.encode(history, decision if execution == "masked" else None, execution)
        is_scored_TB, target_TB = batch.is_scored_BT.t(), batch.target_BT.t()
        score_NV = F.linear(x_TBD[is_scored_TB], network.head.weight_VD, network.head.bias_V)
        return F.cross_entropy(score_NV, target_TB[is_scored_TB] - 1)

    expected = plain("masked")
    torch.testing.assert_close(loss, expected, rtol=1e-9, atol=0)
    for actual, wanted in zip(gradients(loss, network), gradients(expected, network), strict=True):
        torch.testing.assert_close(actual, wanted, rtol=1e-7, atol=1e-10)
    assert abs(plain("dense") - loss) > 1e-3, "the control: the loss differs with all blocks"


def test_evaluation_runs_every_block() -> None:
    batch = random_batch(40)
    actual, expected = (
        make_engine(config).forward(batch, Pass("validate"))
        for config in (dropping(), run_config(model__dropout=0.2))
    )
    assert (actual["keep_BL"] == 1).all()
    assert torch.equal(actual["rank_B"], expected["rank_B"])


def test_a_loss_in_evaluation_mode_runs_every_block_too() -> None:
    batch = random_batch(12)
    losses = []
    for config in (dropping(), run_config(model__dropout=0.2)):
        objective = Objective(build_network(config.model), config)
        losses.append(
            [objective.train(on)(batch, loss_pass(batch))["loss"] for on in (False, True)]
        )
    (still, moving), (plain, dropped) = losses
    assert torch.equal(still, plain)
    assert not torch.equal(moving, dropped), "the control: it has an effect in training"
