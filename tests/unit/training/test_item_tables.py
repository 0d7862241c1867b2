"""Sparse updates of item tables against Adam written row by row."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from skiprec import keyed_random
from skiprec.config.run import RunConfig
from skiprec.training.engine import TorchEngine
from skiprec.training.losses import draw_negatives
from skiprec.types import PADDING, Batch, Pass
from tests.testkit.networks import (
    BACKBONE_NAMES,
    FORMS,
    LEARNED,
    NUM_ITEMS,
    random_batch,
    run_config,
    take_rows,
)
from tests.testkit.steps import make_engine

NEGATIVES = 4
RATE = 0.01
SAMPLED = {
    "loss__kind": "sampled",
    "loss__num_negatives": NEGATIVES,
    "training__learning_rate": RATE,
}
SPARSE = SAMPLED | {"training__item_optimizer": "sparse_adam"}


def loss_pass(step: int = 0, progress: float | None = 1.0) -> Pass:
    half = torch.tensor(24.0)  # of 12 rows of 4 blocks
    statistics = {"sampled": half, "served": half, "prob_L": torch.full((4,), 6.0)}
    return Pass("loss", step, progress, torch.tensor(50.0), 12, statistics)


def tables_of(engine: TorchEngine) -> dict[str, Tensor]:
    return {name: table.detach() for name, table in engine.objective.network.item_tables()}


def dense_gradients(engine: TorchEngine) -> dict[str, Tensor]:
    """The gradients of the tables as dense tensors."""
    return {
        name: table.grad.to_dense() if table.grad.is_sparse else table.grad
        for name, table in engine.objective.network.item_tables()
    }


def touched(name: str, config: RunConfig, batch: Batch, step: int) -> set[int]:
    """The rows of a table that a step reads."""
    if name.endswith("table.weight"):
        return set(batch.input_BT[batch.input_BT != PADDING].tolist())
    key = keyed_random.mix(config.training.seed, keyed_random.stream_id("step"), step)
    num = NEGATIVES * config.loss.num_sets
    negative_S = draw_negatives(key, num, NUM_ITEMS, torch.device("cpu"))
    targets = batch.target_BT[batch.is_scored_BT]
    return {item - 1 for item in [*targets.tolist(), *negative_S.tolist()]}


def row_wise_adam(weight, grad, first, second, rows: set[int], step: int) -> None:
    """Adam of Kingma & Ba, end of section 2, over the rows of the step; `step` is from 1."""
    rate = RATE * (1 - 0.999**step) ** 0.5 / (1 - 0.9**step)
    for row in rows:
        first[row] = 0.9 * first[row] + 0.1 * grad[row]
        second[row] = 0.999 * second[row] + 0.001 * grad[row] ** 2
        weight[row] -= rate * first[row] / (second[row].sqrt() + 1e-8)


def narrow_batch(step: int) -> Batch:
    """Rows of a few items, other items in each step."""
    batch = random_batch(12, seed=step)
    few = (batch.items_BW + 7 * step) % 9 + 1 + 10 * (step % 2)
    return replace(batch, items_BW=torch.where(batch.items_BW == PADDING, PADDING, few))


@pytest.mark.parametrize("sets", [{}, {"loss__negative_sets": 3}], ids=["one set", "three sets"])
def test_rows_of_a_step_are_moved_by_adam_and_the_others_not_at_all(sets: dict[str, int]) -> None:
    config = run_config(**SPARSE, **sets)
    engine, other = make_engine(config), make_engine(run_config(**SAMPLED, **sets))
    weights = {name: table.double() for name, table in tables_of(engine).items()}
    moments = {name: torch.zeros(2, *table.shape).double() for name, table in weights.items()}
    for step in range(4):
        batch = narrow_batch(step)
        other.objective.network.load_state_dict(engine.network_weights())
        other.objective.zero_grad()
        other.objective(batch, loss_pass(step))["loss"].backward()
        for part in (slice(0, 5), slice(5, 12)):  # two passes
            engine.forward_backward(take_rows(batch, part), loss_pass(step))
        before = tables_of(engine)
        before = {name: table.clone() for name, table in before.items()}
        engine.step(1.0)
        for name, grad in dense_gradients(other).items():
            rows = touched(name, config, batch, step)
            assert 0 < len(rows) < len(grad) - 1
            row_wise_adam(weights[name], grad.double(), *moments[name], rows, step + 1)
            torch.testing.assert_close(
                tables_of(engine)[name].double(), weights[name], rtol=1e-4, atol=1e-6, msg=name
            )
            others = sorted(set(range(len(grad))) - rows)
            assert torch.equal(tables_of(engine)[name][others], before[name][others]), name


def test_adamw_moves_rows_that_no_batch_touches() -> None:
    """The control of the test above: it would notice a difference."""
    engine = make_engine(run_config(**SAMPLED))
    for step in range(2):
        before = tables_of(engine)["embedding.table.weight"].clone()
        engine.forward_backward(narrow_batch(step), loss_pass(step))
        engine.step(1.0)
    after = tables_of(engine)["embedding.table.weight"]
    seen_before = narrow_batch(0).input_BT.unique()
    now = narrow_batch(1).input_BT.unique()
    gone = sorted(set(seen_before.tolist()) - set(now.tolist()) - {PADDING})
    assert gone
    assert (after[gone] != before[gone]).any()


@pytest.mark.parametrize("backbone", BACKBONE_NAMES)
def test_each_backbone_has_the_same_gradient_either_way(backbone: str) -> None:
    form = FORMS.get(backbone, {"backbone": backbone})
    shape = {f"model__{key}": value for key, value in form.items()}
    assert_same_gradients(run_config(**SAMPLED, **shape), run_config(**SPARSE, **shape))


def test_sets_of_negatives_have_the_same_gradient_either_way() -> None:
    sets = {"loss__negative_sets": 3}
    assert_same_gradients(run_config(**SAMPLED, **sets), run_config(**SPARSE, **sets))


@pytest.mark.parametrize("policy", LEARNED)
def test_each_policy_has_the_same_gradient_either_way(policy: str) -> None:
    assert_same_gradients(run_config(policy, **SAMPLED), run_config(policy, **SPARSE))


def assert_same_gradients(dense: RunConfig, sparse: RunConfig) -> None:
    batch, norms = random_batch(12), []
    engines = make_engine(dense), make_engine(sparse)
    for engine in engines:
        engine.forward_backward(batch, loss_pass(progress=0.5))
    assert all(table.grad.is_sparse for _, table in engines[1].objective.network.item_tables())
    expected, actual = (dense_gradients(engine) for engine in engines)
    for name in expected:
        torch.testing.assert_close(actual[name], expected[name], rtol=1e-4, atol=1e-7, msg=name)
    assert not actual["embedding.table.weight"][PADDING].any()
    for engine in engines:
        norms.append(float(engine.step(1.0)["grad_norm"]))
    assert norms[1] == pytest.approx(norms[0], rel=1e-5)


def test_a_policy_s_own_embedding_is_such_a_table_with_the_policy_s_rate() -> None:
    config = run_config(
        "gumbel", **SPARSE, policy__own_embedding=True, training__policy_learning_rate=0.5
    )
    engine = make_engine(config)
    assert "policy.trunk.embedding.table.weight" in tables_of(engine)
    rates = {g["name"]: g["base_lr"] for g in engine.tables.optimizer.param_groups}
    assert rates == {"backbone": RATE, "policy": 0.5}


def test_a_frozen_backbone_s_tables_are_not_touched() -> None:
    config = run_config(
        "gumbel",
        **SPARSE,
        policy__own_embedding=True,
        training__freeze_backbone=True,
        init_from="another",
    )
    engine = make_engine(config)
    before = {name: table.clone() for name, table in tables_of(engine).items()}
    engine.forward_backward(random_batch(12), loss_pass(progress=0.5))
    engine.step(1.0)
    moved = {name for name, table in tables_of(engine).items() if not table.equal(before[name])}
    assert moved == {"policy.trunk.embedding.table.weight"}


def test_bf16_tables_add_up_in_float32() -> None:
    engine = make_engine(run_config(**SPARSE, training__precision="bf16"))
    before = {name: master.detach().clone() for name, master in engine.tables.masters.items()}
    for step in range(2):
        engine.forward_backward(random_batch(12, step), loss_pass(step))
        engine.step(1.0)
    for name, table in tables_of(engine).items():
        master = engine.tables.masters[name]
        assert (table.dtype, master.dtype) == (torch.bfloat16, torch.float32)
        assert not torch.equal(master, before[name]), "nothing moved"
        assert torch.equal(table, master.bfloat16())
        assert not torch.equal(table.float(), master), "nothing was rounded"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"loss__kind": "full"}, "gives every item a gradient"),
        ({"training__weight_decay": 0.1}, "moves only the rows that a step touches"),
        ({"training__grad_clip_norm": 1.0}, "cannot clip the whole gradient"),
    ],
)
def test_what_would_need_all_rows_is_refused(changes: dict, message: str) -> None:
    options = {name: value for name, value in SPARSE.items() if not name.startswith("loss")}
    sampled = {} if "loss__kind" in changes else {"loss__kind": "sampled", "loss__num_negatives": 4}
    with pytest.raises(ValueError, match=message):
        run_config(**options, **sampled, **changes)
