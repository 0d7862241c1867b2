"""The contract of `skiprec/models/registry.py`, checked for every registered backbone."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from skiprec.network import SkipRecNetwork
from skiprec.types import PADDING, Batch, KeepDecision
from tests.testkit.networks import (
    BACKBONE_NAMES,
    NUM_BLOCKS,
    NUM_ITEMS,
    WINDOW,
    build_blocks,
    build_network,
    model_config,
    policy_config,
    random_batch,
    take_rows,
)

# Products over other numbers of rows may sum in another order and differ in the last float32 bits.
CLOSE = {"rtol": 1e-5, "atol": 1e-6}
each_backbone = pytest.mark.parametrize("backbone", BACKBONE_NAMES)


def hidden(network: SkipRecNetwork, batch: Batch, execution: str = "dense", keep=None):
    decision = None if keep is None else KeepDecision(keep, None)
    history = network.embed_batch(batch)
    return network.encode(history, decision, execution, call_every_block=True)


def coin_decisions(num_rows: int, seed: int = 5) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 2, (num_rows, NUM_BLOCKS), generator=generator).float()


@each_backbone
def test_a_future_item_changes_no_earlier_output(backbone: str) -> None:
    network = build_network(model_config(backbone)).eval()
    batch = random_batch(6)
    before = hidden(network, batch)
    for position in range(1, WINDOW - 1):
        items = batch.items_BW.clone()
        items[:, position] = items[:, position] % NUM_ITEMS + 1
        real = batch.items_BW[:, position] != PADDING
        items[~real] = batch.items_BW[~real]
        after = hidden(network, replace(batch, items_BW=items))
        assert torch.equal(after[:position], before[:position])
        moved = (after[position] - before[position]).abs().amax(-1)
        assert (moved[real] > 1e-3).all(), "a position must see its own item"


@each_backbone
def test_the_last_output_sees_the_whole_history(backbone: str) -> None:
    """The control of causality, which a backbone that sees nothing would pass."""
    network = build_network(model_config(backbone)).eval()
    batch = random_batch(1)
    before = hidden(network, batch)[-1]
    for position in range(WINDOW - 1):
        changed = batch.items_BW.clone()
        changed[:, position] = changed[:, position] % NUM_ITEMS + 1
        after = hidden(network, replace(batch, items_BW=changed))[-1]
        assert (after - before).abs().max() > 1e-5, f"position {position} is not seen"


@each_backbone
def test_training_leaves_the_padding_vector_zero(backbone: str) -> None:
    network = build_network(model_config(backbone))
    optimizer = torch.optim.AdamW(network.parameters(), lr=0.1, weight_decay=0.1)
    for _ in range(3):
        optimizer.zero_grad()
        hidden(network, random_batch(8)).square().sum().backward()
        optimizer.step()
    assert (network.embedding.table.weight[PADDING] == 0).all()


@each_backbone
def test_a_row_alone_equals_the_row_in_a_batch(backbone: str) -> None:
    network = build_network(model_config(backbone)).eval()
    batch = random_batch(16)
    together = hidden(network, batch)
    for row in range(16):
        alone = hidden(network, take_rows(batch, slice(row, row + 1)))
        torch.testing.assert_close(alone[:, 0], together[:, row], **CLOSE)
    assert not torch.allclose(together[:, 0], together[:, 9], **CLOSE), "rows must differ"


@each_backbone
@pytest.mark.parametrize("execution", ["masked", "gathered"])
def test_keep_all_equals_dense_bit_for_bit(backbone: str, execution: str) -> None:
    network = build_network(model_config(backbone, dropout=0.2)).train()
    batch = random_batch(7)
    keep = torch.ones(7, NUM_BLOCKS)
    assert torch.equal(hidden(network, batch, execution, keep), hidden(network, batch))


@each_backbone
@pytest.mark.parametrize("execution", ["masked", "gathered"])
def test_keep_none_equals_the_embedding_bit_for_bit(backbone: str, execution: str) -> None:
    network = build_network(model_config(backbone, dropout=0.2)).train()
    batch = random_batch(7)
    keep = torch.zeros(7, NUM_BLOCKS)
    embedded = network.embed_batch(batch).x_TBD
    assert torch.equal(hidden(network, batch, execution, keep), embedded)


@each_backbone
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("num_rows", [1, 2, 16])
def test_masked_equals_gathered(backbone: str, training: bool, num_rows: int) -> None:
    """It holds with dropout, too: the mask of a row does not depend on its place in the batch."""
    network = build_network(model_config(backbone, dropout=0.2)).train(training)
    batch, keep = random_batch(num_rows), coin_decisions(num_rows)
    masked = hidden(network, batch, "masked", keep)
    torch.testing.assert_close(hidden(network, batch, "gathered", keep), masked, **CLOSE)
    with torch.no_grad():
        torch.testing.assert_close(hidden(network, batch, "gathered", keep), masked, **CLOSE)
        torch.testing.assert_close(hidden(network, batch, "masked", keep), masked, **CLOSE)
    assert not torch.allclose(masked, hidden(network, batch), **CLOSE), "some block is skipped"


@each_backbone
def test_masked_and_gathered_give_the_same_gradients(backbone: str) -> None:
    batch, keep = random_batch(16), coin_decisions(16)
    gradients = {}
    for execution in ("masked", "gathered"):
        network = build_network(model_config(backbone, dropout=0.2)).train()
        hidden(network, batch, execution, keep).square().mean().backward()
        gradients[execution] = {
            name: p.grad for name, p in network.named_parameters() if not name.startswith("head.")
        }
    for name, gradient in gradients["masked"].items():
        torch.testing.assert_close(gradients["gathered"][name], gradient, msg=name, **CLOSE)
        assert gradient.abs().max() > 0, name


@each_backbone
def test_the_gradient_reaches_the_policy_through_masked(backbone: str) -> None:
    network = build_network(model_config(backbone), policy_config("gumbel"))
    batch = random_batch(8)
    history = network.embed_batch(batch)
    decision = network.decide(history, progress=0.5)
    network.encode(history, decision, "masked").square().mean().backward()
    for name, parameter in network.policy.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().max() > 0, name


@each_backbone
def test_128_blocks_go_forward_and_backward(backbone: str) -> None:
    """It holds at the initial weights, without `awaken`."""
    network = build_network(model_config(backbone, num_blocks=128), awake=False)
    x_TBD = hidden(network, random_batch(4))
    x_TBD.square().mean().backward()
    assert torch.isfinite(x_TBD).all()
    assert torch.isfinite(network.embedding.table.weight.grad).all()
    for index, block in enumerate(network.stack.blocks):
        grads = [p.grad for p in block.parameters()]
        assert all(torch.isfinite(g).all() for g in grads)
        assert any(g.abs().max() > 0 for g in grads), f"block {index} gets no gradient"


@each_backbone
def test_weights_survive_a_round_trip(backbone: str) -> None:
    network = build_network(model_config(backbone), policy_config("gumbel"))
    other = build_network(model_config(backbone), policy_config("gumbel"), seed=1)
    batch = random_batch(5)
    assert not torch.equal(hidden(other, batch), hidden(network, batch))
    other.load_state_dict(network.state_dict())
    assert torch.equal(hidden(other, batch), hidden(network, batch))


@each_backbone
def test_reset_parameters_is_a_function_of_the_seed(backbone: str) -> None:
    def weights(seed: int) -> dict[str, torch.Tensor]:
        return build_network(model_config(backbone), seed=seed, awake=False).state_dict()

    first, again, other = weights(0), weights(0), weights(1)
    assert all(torch.equal(first[name], again[name]) for name in first)
    drawn = [name for name in first if first[name].dim() > 1]
    assert any(name.startswith("stack.blocks.0.") for name in drawn)
    assert not any(torch.equal(first[name], other[name]) for name in drawn)


@each_backbone
def test_a_policy_moves_no_backbone_weight(backbone: str) -> None:
    plain = build_network(model_config(backbone), awake=False).state_dict()
    with_policy = build_network(
        model_config(backbone), policy_config("gumbel"), awake=False
    ).state_dict()
    assert all(torch.equal(plain[name], with_policy[name]) for name in plain)


@each_backbone
def test_learns_four_sequences_by_heart(backbone: str) -> None:
    network = build_network(model_config(backbone, width=32), awake=False).train()
    batch = random_batch(4, seed=2)
    target_N = batch.target_BT.t()[batch.is_scored_BT.t()] - 1
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-2)
    for _ in range(120):
        optimizer.zero_grad()
        x_ND = hidden(network, batch)[batch.is_scored_BT.t()]
        loss = F.cross_entropy(x_ND @ network.head.weight_VD.t() + network.head.bias_V, target_N)
        loss.backward()
        # A single large step late in training throws some networks back, on some processors.
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
    assert loss.item() < 0.02


@each_backbone
def test_parts_have_no_0_dimensional_parameter(backbone: str) -> None:
    """DeepSpeed 0.19 cannot broadcast a 0-dimensional parameter."""
    for block in build_blocks(model_config(backbone)):
        assert all(parameter.dim() > 0 for parameter in block.parameters())


@each_backbone
def test_a_final_norm_gives_the_scores_one_scale(backbone: str) -> None:
    """Scores are those of the normalised output; the blocks do not change."""
    plain, normed = (
        build_network(model_config(backbone, final_norm=norm)).eval() for norm in (None, True)
    )
    batch = random_batch(6)
    x_TBD = hidden(plain, batch)
    assert torch.equal(hidden(normed, batch), x_TBD)
    head = normed.head
    expected = F.layer_norm(x_TBD[-1], x_TBD.shape[-1:], head.norm.weight, head.norm.bias)
    found = head(x_TBD[-1], lambda x_BD, scores: x_BD)
    torch.testing.assert_close(found, expected)
    larger = head(10 * x_TBD[-1], lambda x_BD, scores: x_BD)
    torch.testing.assert_close(larger, expected, rtol=1e-3, atol=1e-4)
    assert torch.equal(plain.head(x_TBD[-1], lambda x_BD, scores: x_BD), x_TBD[-1])  # control
    assert "head.norm.weight" not in plain.state_dict()  # networks of before have none


@each_backbone
def test_tied_items_are_scored_by_the_vectors_that_are_read(backbone: str) -> None:
    tied = build_network(model_config(backbone, tied_items=True, final_norm=True)).eval()
    batch = random_batch(6)
    x_BD = hidden(tied, batch)[-1]
    scores_BV = tied.head(x_BD, lambda x, scores: x @ scores.weight_VD.t() + scores.bias_V)
    normed = F.layer_norm(x_BD, x_BD.shape[-1:], tied.head.norm.weight, tied.head.norm.bias)
    expected = normed @ tied.embedding.table.weight[1:].t() + tied.head.bias_V
    torch.testing.assert_close(scores_BV, expected)
    names = tied.state_dict()
    assert "head.weight_VD" not in names
    assert "embedding.table.weight" in names
    scores_BV.sum().backward()
    gradient = tied.embedding.table.weight.grad
    assert gradient is not None
    assert (gradient[1:] != 0).any(1).all()  # every item is scored
    assert (gradient[0] == 0).all()  # padding is not
    plain = build_network(model_config(backbone))
    assert plain.head.weight_VD.data_ptr() != plain.embedding.table.weight.data_ptr()  # control


@each_backbone
def test_the_initial_scale_is_that_of_all_matrices(backbone: str) -> None:
    one, three = (
        build_network(model_config(backbone, initial_scale=scale), awake=False)
        for scale in (None, 3.0)
    )
    for (name, weight), scaled in zip(one.named_parameters(), three.parameters(), strict=True):
        factor = 3 if weight.dim() > 1 else 1
        torch.testing.assert_close(scaled, factor * weight, msg=name)
