"""The contract of `skiprec/models/registry.py`, checked for every registered baseline."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from skiprec.evaluation.measure.compute_cost import measure_cost
from skiprec.evaluation.measure.scoring import score_full
from skiprec.evaluation.measure.tiles import TILE_ROWS, Tile
from skiprec.models.caser import LENGTH
from skiprec.models.registry import BASELINES
from skiprec.network import SkipRecNetwork
from skiprec.types import PADDING, Batch
from tests.testkit.networks import (
    NUM_ITEMS,
    WIDTH,
    WINDOW,
    build_network,
    model_config,
    policy_config,
    random_batch,
    run_config,
    take_rows,
)
from tests.testkit.steps import Run, make_engine

# Products over other numbers of rows may sum in another order and differ in the last float32 bits.
CLOSE = {"rtol": 1e-5, "atol": 1e-6}
# The number of last items that an output sees; all items if a baseline is not listed.
REACH = {"caser": LENGTH}
ONLY_ONE_LAYER = ["caser", "nfm"]
each_baseline = pytest.mark.parametrize("name", sorted(BASELINES))


def baseline(name: str, seed: int = 0, awake: bool = True, **changes: object) -> SkipRecNetwork:
    return build_network(model_config(name, **{"num_blocks": 1} | changes), None, seed, awake)


def hidden(network: SkipRecNetwork, batch: Batch) -> Tensor:
    return network.encode(network.embed_batch(batch), None, "dense")


def all_scores(network: SkipRecNetwork, x_ND: Tensor) -> Tensor:
    scores_NV: Tensor = network.head(x_ND, lambda x, scores: scores.columns(x, 0, NUM_ITEMS))
    return scores_NV


@each_baseline
def test_a_future_item_changes_no_earlier_output(name: str) -> None:
    network = baseline(name).eval()
    batch = random_batch(6)
    before = hidden(network, batch)
    for position in range(1, WINDOW - 1):
        items = batch.items_BW.clone()
        real = items[:, position] != PADDING
        items[real, position] = items[real, position] % NUM_ITEMS + 1
        after = hidden(network, Batch(items, batch.key_B))
        assert torch.equal(after[:position], before[:position])
        moved = (after[position] - before[position]).abs().amax(-1)
        assert (moved[real] > 1e-3).all(), "a position must see its own item"


@each_baseline
def test_the_last_output_sees_the_history_within_its_reach(name: str) -> None:
    network = baseline(name).eval()
    batch = random_batch(1)
    before = hidden(network, batch)[-1]
    num_positions = WINDOW - 1
    for position in range(num_positions):
        changed = batch.items_BW.clone()
        changed[:, position] = changed[:, position] % NUM_ITEMS + 1
        after = hidden(network, Batch(changed, batch.key_B))[-1]
        if position >= num_positions - REACH.get(name, num_positions):
            assert (after - before).abs().max() > 1e-5, f"position {position} is not seen"
        else:
            assert torch.equal(after, before), f"position {position} is seen"


@each_baseline
@pytest.mark.parametrize("training", [True, False])
def test_a_row_alone_equals_the_row_in_a_batch(name: str, training: bool) -> None:
    """It holds with dropout, too: each row has its own mask."""
    network = baseline(name, dropout=0.3).train(training)
    batch = random_batch(16)
    together = hidden(network, batch)
    scores_NV = all_scores(network, together[-1])
    for row in range(16):
        alone = hidden(network, take_rows(batch, slice(row, row + 1)))
        torch.testing.assert_close(alone[:, 0], together[:, row], **CLOSE)
        torch.testing.assert_close(all_scores(network, alone[-1])[0], scores_NV[row], **CLOSE)
    assert not torch.allclose(together[:, 0], together[:, 9], **CLOSE), "rows must differ"


@each_baseline
def test_weights_survive_a_round_trip(name: str) -> None:
    network, other = baseline(name), baseline(name, seed=1)
    batch = random_batch(5)
    expected = all_scores(network, hidden(network, batch)[-1])
    assert not torch.equal(all_scores(other, hidden(other, batch)[-1]), expected)
    other.load_state_dict(network.state_dict())
    assert torch.equal(all_scores(other, hidden(other, batch)[-1]), expected)


@each_baseline
def test_weights_are_a_function_of_the_seed_alone(name: str) -> None:
    """The global generator of torch, from which modules of torch draw, has no influence."""

    def weights(seed: int, global_seed: int) -> dict[str, Tensor]:
        with torch.random.fork_rng():
            torch.manual_seed(global_seed)
            return baseline(name, seed, awake=False).state_dict()

    first, again, other = weights(0, 0), weights(0, 1), weights(1, 0)
    assert all(torch.equal(first[key], again[key]) for key in first)
    constant = {key for key, value in first.items() if value.unique().numel() == 1}
    assert all("bias" in key for key in constant)
    assert not any(torch.equal(first[key], other[key]) for key in first.keys() - constant)


@each_baseline
def test_parameters_have_at_least_one_dimension(name: str) -> None:
    """DeepSpeed 0.19 cannot broadcast 0-dimensional parameters."""
    assert all(parameter.dim() > 0 for parameter in baseline(name).parameters())


@each_baseline
def test_a_policy_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=r"nothing to skip; remove the"):
        build_network(model_config(name, num_blocks=1), policy_config("gumbel"))


@each_baseline
@pytest.mark.parametrize("option", ["dilations", "num_heads", "stochastic_depth"])
def test_options_of_backbones_are_refused(name: str, option: str) -> None:
    value = {"dilations": (1,), "num_heads": 2, "stochastic_depth": 0.1}[option]
    with pytest.raises(ValueError, match=f"model.{option} has no effect"):
        baseline(name, **{option: value})


@pytest.mark.parametrize("name", ONLY_ONE_LAYER)
def test_a_depth_that_there_is_not_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=r"model.num_blocks=2 has no effect.*set it to 1"):
        baseline(name, num_blocks=2)


@each_baseline
def test_learns_four_sequences_by_heart(name: str) -> None:
    network = baseline(name, awake=False, width=32).train()
    batch = random_batch(4, seed=2)
    target_N = batch.target_BT.t()[batch.is_scored_BT.t()] - 1
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-2)
    for _ in range(150):
        optimizer.zero_grad()
        x_ND = hidden(network, batch)[batch.is_scored_BT.t()]
        loss = F.cross_entropy(all_scores(network, x_ND), target_N)
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.02


@each_baseline
def test_steps_of_the_engine_move_every_weight(name: str) -> None:
    changes = {"model__backbone": name, "model__num_blocks": 1, "model__dropout": 0.2}
    sampled = {"loss__kind": "sampled", "loss__num_negatives": 10}
    config = run_config(training__log_every_steps=1, **changes, **sampled)
    engine = make_engine(config)
    before = engine.network_weights()
    run = Run(config, total_steps=3)
    run.go(engine)
    after = engine.network_weights()
    assert before is not None
    assert after is not None
    assert all((after[key] != before[key]).any() for key in before)
    losses = run.sink.values("train/loss")
    assert len(losses) == 3
    assert all(0 < loss < 20 for loss in losses)
    assert (after["embedding.table.weight"][PADDING] == 0).all()


@each_baseline
@pytest.mark.parametrize("exclude_seen", [False, True])
def test_the_evaluator_ranks_as_counting_one_by_one_does(name: str, exclude_seen: bool) -> None:
    network = baseline(name).eval()
    batch, num_real = random_batch(TILE_ROWS), 20
    actual = score_full(network, [Tile(batch, num_real)], exclude_seen)["rank_full_backbone"]
    assert len(actual) == num_real
    for row in range(num_real):
        items_W = batch.items_BW[row]
        x_1D = hidden(network, take_rows(batch, slice(row, row + 1)))[-1]
        score = {
            item: network.head(x_1D, lambda x, s, i=item: s.own(x, torch.tensor([i]))).item()
            for item in range(1, NUM_ITEMS + 1)
        }
        target = int(items_W[-1])
        rivals = set(score) - {target} - (set(items_W[:-1].tolist()) if exclude_seen else set())
        assert actual[row] == 1 + sum(score[item] > score[target] for item in rivals)
    assert len(set(actual)) > 5


@each_baseline
def test_its_cost_can_be_counted(name: str) -> None:
    cost = measure_cost(baseline(name).eval(), WINDOW - 1, k=5)
    assert len(cost.block_L) == 1
    assert cost.policy == 0
    assert cost.full == cost.embedding + cost.block_L[0] + cost.head
    assert cost.head >= 2 * WIDTH * NUM_ITEMS
