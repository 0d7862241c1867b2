"""The parts of the network: embedding, types, registries and batches."""

import pytest
import torch

from skiprec.config.model import ModelConfig
from skiprec.policy.build import build_policy
from skiprec.policy.kinds import policy_section
from skiprec.types import Batch
from tests.testkit.networks import (
    NUM_ITEMS,
    WIDTH,
    build_blocks,
    build_network,
    model_config,
    policy_config,
    random_batch,
)


def test_a_batch_is_inputs_targets_and_which_of_them_count() -> None:
    batch = Batch(torch.tensor([[0, 0, 4, 7, 2], [1, 2, 3, 4, 5]]), torch.arange(2))
    assert batch.input_BT.tolist() == [[0, 0, 4, 7], [1, 2, 3, 4]]
    assert batch.target_BT.tolist() == [[0, 4, 7, 2], [2, 3, 4, 5]]
    assert batch.is_scored_BT.tolist() == [[False, False, True, True], [True] * 4]


def test_history_is_time_major_with_zeros_at_padding() -> None:
    network, batch = build_network(model_config()), random_batch(6)
    history = network.embed_batch(batch)
    table = network.embedding.table.weight
    for row in range(6):
        for t, item in enumerate(batch.input_BT[row].tolist()):
            assert torch.equal(history.x_TBD[t, row], table[item])
            assert history.is_item_TB1[t, row, 0] == (item > 0)
    assert (table[0] == 0).all()
    assert history.x_TBD.is_contiguous()


def test_first_weights_are_the_authors() -> None:
    network = build_network(model_config(width=64), awake=False)
    items = network.embedding.table.weight[1:]
    assert items.abs().max() <= 0.04, "truncated at two standard deviations"
    assert 0.015 < items.std() < 0.02
    assert 0.009 < network.head.weight_VD.std() < 0.011
    assert (network.head.bias_V == 0.1).all()
    conv = network.stack.blocks[0].conv_1
    assert conv.weight_KDE.abs().max() <= 0.04
    assert (conv.bias_E == 0).all()


def test_the_output_matrix_is_not_tied_to_the_embedding() -> None:
    network = build_network(model_config())
    assert network.head.weight_VD.shape == (NUM_ITEMS, WIDTH)
    assert network.embedding.table.weight.shape == (NUM_ITEMS + 1, WIDTH)
    assert network.head.weight_VD.data_ptr() != network.embedding.table.weight.data_ptr()


def test_input_dropout_is_on_in_training_alone() -> None:
    network, batch = build_network(model_config(dropout=0.5)), random_batch(6)
    plain = network.eval().embed_batch(batch).x_TBD
    dropped = network.train().embed_batch(batch).x_TBD
    share = ((dropped == 0) & (plain != 0)).sum() / (plain != 0).sum()
    assert 0.4 < share < 0.6
    other = network.embed(batch.input_BT, batch.key_B + 1).x_TBD
    assert not torch.equal(dropped, other)


def test_a_network_without_a_policy_decides_nothing() -> None:
    network, batch = build_network(model_config()), random_batch(2)
    assert network.decide(network.embed_batch(batch)) is None


def test_unknown_names_are_told_with_the_known_ones() -> None:
    with pytest.raises(
        ValueError, match=r"unknown model.backbone 'x'; there are: .*nextitnet_plus"
    ):
        build_blocks(ModelConfig(backbone="x"))
    with pytest.raises(ValueError, match=r"unknown policy.kind 'x'; there are: .*gumbel"):
        policy_section("x")


def test_without_a_policy_none_is_built() -> None:
    assert build_policy(policy_section("none"), 3, 4, 5) is None


@pytest.mark.parametrize("policy", [None, "gumbel", "fixed"])
def test_nothing_of_torch_s_own_random_numbers_is_used(policy: str | None) -> None:
    """One seed decides all weights, and no forward pass draws from a global generator."""
    before = torch.get_rng_state()
    network = build_network(
        model_config(dropout=0.5), policy and policy_config(policy), awake=False
    )
    state = torch.get_rng_state()
    batch = random_batch(4)
    history = network.train().embed_batch(batch)
    network.encode(history, network.decide(history, 1.0), "masked" if policy else "dense")
    assert torch.equal(torch.get_rng_state(), state)
    torch.set_rng_state(before)
    again = build_network(model_config(dropout=0.5), policy and policy_config(policy), awake=False)
    torch.set_rng_state(before)
    torch.rand(3)
    other = build_network(model_config(dropout=0.5), policy and policy_config(policy), awake=False)
    for name, value in again.state_dict().items():
        assert torch.equal(other.state_dict()[name], value), (
            f"{name} was drawn from the global generator"
        )
