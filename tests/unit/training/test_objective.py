"""The loss and its gradient: over scored positions only, and equal for any split of a step."""

from functools import partial

import pytest
import torch
import torch.nn.functional as F

from skiprec.config.run import RunConfig
from skiprec.ranking import target_ranks
from skiprec.training.objective import Objective, _for_the_log
from skiprec.types import PADDING, Batch, Pass
from tests.testkit.networks import (
    NUM_BLOCKS,
    NUM_ITEMS,
    POLICY_NAMES,
    WINDOW,
    build_network,
    random_batch,
    run_config,
    take_rows,
)
from tests.testkit.steps import make_engine, step_gradient

# Everything is float64, so that only the order of sums may differ.
CLOSE = {"rtol": 1e-9, "atol": 1e-12}
BUDGET = {"policy__target_keep_frac": 0.2, "policy__budget_weight": 3.0}
PERSONAL = {"policy__information_weight": 0.5, "policy__guide_weight": 0.3}
EXITS = [1, 2, NUM_BLOCKS]
CONFIGS = {name: run_config(name) for name in ("none", *POLICY_NAMES)} | {
    "gumbel with budget": run_config("gumbel", **BUDGET),
    "gumbel with all terms": run_config("gumbel", policy__budget="user", **BUDGET, **PERSONAL),
    "gumbel at the last position": run_config("gumbel", policy__learn_from="last_position"),
    "gumbel with a price": run_config("gumbel", policy__budget="shared", **BUDGET),
    "reinforce, gathered": run_config(
        "reinforce", training__execution="gathered", policy__entropy_weight=0.1
    ),
    "last position": run_config(loss__last_position_weight=0.7),
    "stochastic depth": run_config(model__stochastic_depth=0.5, model__dropout=0.3),
    "exits": run_config(model__exits=EXITS, model__dropout=0.3),
    "exits, readouts": run_config(model__exits=EXITS, model__exit_readouts=True),
    "exits, sampled": run_config(
        model__exits=EXITS,
        model__stochastic_depth=0.5,
        loss__kind="sampled",
        loss__num_negatives=20,
        loss__exit_positions=0.7,
        loss__teacher="mean",
    ),
    "cost, early state": run_config("cost", policy__reads_after=1),
    "gumbel, early state": run_config("gumbel", policy__reads_after=1, model__exits=EXITS),
    "cosine": run_config(model__cosine_temperature=0.2),
    "cosine, tied, uniform": run_config(
        model__cosine_temperature=0.2,
        model__tied_items=True,
        loss__kind="sampled",
        loss__num_negatives=20,
        loss__negatives="uniform",
    ),
    "gathered": run_config("random", training__execution="gathered"),
    "sampled": run_config(loss__kind="sampled", loss__num_negatives=20),
    "sampled, sets": run_config(
        loss__kind="sampled", loss__num_negatives=20, loss__negative_sets=3
    ),
    "exits, sampled, sets": run_config(
        model__exits=EXITS, loss__kind="sampled", loss__num_negatives=20, loss__negative_sets=3
    ),
    "dropout": run_config("gumbel", model__dropout=0.3, **BUDGET),
}


SAMPLED = {"loss__kind": "sampled", "loss__num_negatives": 15}


def passes(batch: Batch, *sizes: int) -> list[Batch]:
    return [
        Batch(items, key)
        for items, key in zip(batch.items_BW.split(sizes), batch.key_B.split(sizes), strict=True)
    ]


def loss_and_gradient(config: RunConfig, batch: Batch) -> tuple[torch.Tensor, list[torch.Tensor]]:
    network = build_network(config.model, config.policy).double()
    pass_ = Pass("loss", 0, 1.0, batch.is_scored_BT.sum(), num_rows=12)
    loss = Objective(network, config)(batch, pass_)["loss"]
    return loss, list(torch.autograd.grad(loss, list(network.parameters()), allow_unused=True))


def test_the_loss_is_the_mean_cross_entropy_over_scored_positions() -> None:
    config = run_config()
    batch = random_batch(12)
    loss, _ = loss_and_gradient(config, batch)
    network = build_network(config.model, config.policy).double()
    history = network.embed_batch(batch)
    x_TBD = network.encode(history, None, "dense")
    terms = []
    for row in range(12):
        for t in range(WINDOW - 1):
            if batch.items_BW[row, t] != PADDING and batch.items_BW[row, t + 1] != PADDING:
                score_V = network.head.weight_VD @ x_TBD[t, row] + network.head.bias_V
                terms.append(F.cross_entropy(score_V, batch.items_BW[row, t + 1] - 1))
    assert 0 < len(terms) < 12 * (WINDOW - 1)
    torch.testing.assert_close(loss, torch.stack(terms).mean())


# A row of padding has a decision too, and predicted costs, which some terms of a policy's loss
# count: such rows are never in a step.
COUNT_EVERY_ROW = {name for name in CONFIGS if "budget" in name or "terms" in name}
COUNT_EVERY_ROW |= {"gumbel with a price", "dropout", "reinforce, gathered", "cost"}


@pytest.mark.parametrize("name", sorted(CONFIGS.keys() - COUNT_EVERY_ROW))
def test_rows_of_padding_change_nothing(name: str) -> None:
    config = CONFIGS[name]
    batch = random_batch(6)
    empty = Batch(torch.zeros(3, WINDOW, dtype=torch.int64), torch.arange(3))
    padded = Batch(
        torch.cat([batch.items_BW, empty.items_BW]), torch.cat([batch.key_B, empty.key_B])
    )
    loss, gradients = loss_and_gradient(config, batch)
    padded_loss, padded_gradients = loss_and_gradient(config, padded)
    torch.testing.assert_close(padded_loss, loss, **CLOSE)
    for actual, expected in zip(padded_gradients, gradients, strict=True):
        torch.testing.assert_close(actual, expected, **CLOSE)


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("sizes", [(6, 6), (1, 4, 7), (12, 0), (1,) * 12], ids=str)
def test_the_gradient_is_the_same_however_a_step_is_split(
    name: str, sizes: tuple[int, ...]
) -> None:
    batch = random_batch(12)
    whole = step_gradient(CONFIGS[name], [batch])
    split = step_gradient(CONFIGS[name], passes(batch, *sizes))
    for key, expected in whole.items():
        torch.testing.assert_close(split[key], expected, msg=key, rtol=1e-4, atol=1e-6)
    other = step_gradient(CONFIGS[name], [random_batch(12, seed=1)])
    table = "embedding.table.weight"
    assert not torch.allclose(other[table], whole[table], rtol=1e-2)


@pytest.mark.parametrize("loss", [{}, SAMPLED, {**SAMPLED, "loss__negative_sets": 4}])
def test_the_last_position_adds_the_mean_over_rows_of_its_loss(loss: dict[str, object]) -> None:
    batch = random_batch(12)
    plain = run_config("random", **loss)
    weighted = run_config("random", loss__last_position_weight=0.7, **loss)
    actual, _ = loss_and_gradient(weighted, batch)
    without, _ = loss_and_gradient(plain, batch)
    # Only the last position of each row is scored, so the mean over targets is a mean over rows.
    network = build_network(plain.model, plain.policy).double()
    history = network.embed_batch(batch)
    x_TBD = network.encode(history, network.decide(history), "masked")
    x_BD, target_B = x_TBD[-1], batch.items_BW[:, -1]
    if loss:
        objective = Objective(network, plain)
        is_last_T1 = (torch.arange(WINDOW - 1) == WINDOW - 2)[:, None]
        rows = [
            objective._cross_entropy(x_TBD[:, i : i + 1], row, is_last_T1, 0)
            for i, row in enumerate(passes(batch, *[1] * 12))
        ]
        last = torch.stack(rows).mean()
    else:
        score_BV = F.linear(x_BD, network.head.weight_VD, network.head.bias_V)
        last = F.cross_entropy(score_BV, target_B - 1)
    torch.testing.assert_close(actual - without, 0.7 * last)
    assert abs(last - without) > 1e-3, "the control: it is not the mean over all positions"


def gradient_of(loss: torch.Tensor, network: torch.nn.Module) -> dict[str, torch.Tensor]:
    parameters = dict(network.named_parameters())
    values = torch.autograd.grad(
        loss, list(parameters.values()), allow_unused=True, retain_graph=True
    )
    return {name: g for name, g in zip(parameters, values, strict=True) if g is not None}


def test_a_policy_can_learn_from_the_last_position_alone() -> None:
    """With one block, no other position influences the last one, so the gradient is exact."""
    batch = random_batch(12)
    everywhere = run_config("gumbel", model__num_blocks=1)
    alone = run_config("gumbel", model__num_blocks=1, policy__learn_from="last_position")
    network = build_network(everywhere.model, everywhere.policy).double()
    pass_ = Pass("loss", 0, 1.0, batch.is_scored_BT.sum(), num_rows=12)
    losses = [Objective(network, c)(batch, pass_)["loss"] for c in (everywhere, alone)]
    assert torch.equal(*losses), "the values do not change"
    all_positions, last_position = (gradient_of(loss, network) for loss in losses)

    history = network.embed_batch(batch)
    x_BD = network.encode(history, network.decide(history, pass_.progress), "masked")[-1]
    score_BV = F.linear(x_BD, network.head.weight_VD, network.head.bias_V)
    last = F.cross_entropy(score_BV, batch.items_BW[:, -1] - 1, reduction="sum")
    times = batch.input_BT.shape[1] / batch.is_scored_BT.sum().double()
    expected = gradient_of(last * times, network)
    for name, gradient in all_positions.items():
        if name.startswith(("policy.trunk", "policy.head")):
            # Logits are always float32.
            torch.testing.assert_close(
                last_position[name], expected[name], msg=name, rtol=1e-5, atol=1e-9
            )
            assert not torch.allclose(gradient, expected[name], rtol=1e-2), f"control: {name}"
        elif name.startswith(("stack", "head")):
            torch.testing.assert_close(last_position[name], gradient, msg=name, **CLOSE)


def test_statistics_count_the_decisions_that_the_loss_will_use() -> None:
    """With dropout, both passes must drop the same elements, or the budget has another mean."""
    config = run_config("gumbel", model__dropout=0.5, **BUDGET)
    engine, batch = make_engine(config), random_batch(40)
    counted = engine.forward(batch, Pass("statistics", 0, 1.0))["sampled"]
    pass_ = Pass("loss", 0, 1.0, torch.tensor(9.0), 40, {"sampled": torch.tensor(80.0)})
    used = engine.forward_backward(batch, pass_)["keep_L"]
    assert counted.item() == used.sum().item()
    plain = make_engine(run_config("gumbel", **BUDGET))  # the control: dropout changes decisions
    assert plain.forward(batch, Pass("statistics", 0, 1.0))["sampled"] != counted


@pytest.mark.parametrize("policy", ["none", *POLICY_NAMES])
def test_validation_ranks_the_last_target_under_the_decisions_of_serving(policy: str) -> None:
    config = run_config(policy)
    engine, batch = make_engine(config), random_batch(20)
    out = engine.forward(batch, Pass("validate"))
    network = engine.objective.network.eval()
    with torch.no_grad():
        history = network.embed_batch(batch)
        decision = network.decide(history)
        x_TBD = network.encode(history, decision, "dense" if decision is None else "masked")
        score_BV = F.linear(x_TBD[-1], network.head.weight_VD, network.head.bias_V)
    target_B = batch.target_BT[:, -1]
    own_B1 = score_BV.gather(1, target_B[:, None] - 1)
    expected = 1 + (score_BV > own_B1).sum(1)
    assert torch.equal(out["rank_B"], expected)
    keep = torch.ones(20, config.model.num_blocks) if decision is None else decision.keep_BL
    assert torch.equal(out["keep_BL"], keep)
    assert ("prob_BL" in out) == (decision is not None and decision.prob_BL is not None)


def test_validation_uses_the_exact_rank() -> None:
    network = build_network(run_config().model).eval()
    x_BD = torch.randn(5, 8, generator=torch.Generator().manual_seed(0))
    rank_B = network.head(x_BD, partial(target_ranks, target_B=torch.arange(1, 6)))
    assert ((rank_B >= 1) & (rank_B <= NUM_ITEMS)).all()


def test_a_frozen_backbone_stays_as_it_is() -> None:
    config = run_config("gumbel", training__freeze_backbone=True, init_from="other", **BUDGET)
    engine, batch = make_engine(config), random_batch(12)
    before = engine.network_weights()
    pass_ = Pass("loss", 0, 1.0, batch.is_scored_BT.sum(), 12, {"sampled": torch.tensor(24.0)})
    engine.forward_backward(batch, pass_)
    engine.step(1.0)
    after = engine.network_weights()
    moved = {name for name in before if not torch.equal(after[name], before[name])}
    assert moved
    assert all(name.startswith("policy.") for name in moved)


def test_a_batch_of_the_last_rows_alone_is_the_same_rows() -> None:
    batch = random_batch(8)
    part = take_rows(batch, slice(5, 8))
    assert torch.equal(part.is_scored_BT, batch.is_scored_BT[5:])


def test_what_is_summed_for_the_log_is_float32_at_least() -> None:
    for dtype, expected in ((torch.bfloat16, torch.float32), (torch.float64, torch.float64)):
        assert _for_the_log(torch.ones(1, dtype=dtype)).dtype == expected
