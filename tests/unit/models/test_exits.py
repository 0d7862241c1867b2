"""Exits of a network: whatever runs, the norm of the depth at which a row leaves comes last."""

import pytest
import torch
import torch.nn.functional as F

from skiprec.evaluation.measure.timing import shallow_network
from skiprec.inference.executor import recommend
from skiprec.models.exits import ExitNorms, ExitReadouts, depth_of
from skiprec.network import SkipRecNetwork
from skiprec.types import History, KeepDecision
from tests.testkit.networks import (
    BACKBONE_NAMES,
    NUM_BLOCKS,
    WINDOW,
    build_network,
    model_config,
    policy_config,
    random_batch,
)

EXITS = (1, 2, NUM_BLOCKS)
ROWS = WINDOW - 1  # as many as positions, so that no mix-up of the two goes unseen
each_backbone = pytest.mark.parametrize("backbone", BACKBONE_NAMES)


each_kind = pytest.mark.parametrize("readouts", [None, True])


def network_and_history(backbone: str, readouts: bool | None) -> tuple[SkipRecNetwork, History]:
    network = build_network(model_config(backbone, exits=EXITS, exit_readouts=readouts)).eval()
    batch = random_batch(ROWS)
    return network, network.embed_batch(batch)


@pytest.mark.parametrize(("asked", "times"), [(None, 2), (1, 1), (3, 3)])
def test_the_width_of_a_readout_is_asked_for(asked: int | None, times: int) -> None:
    model = model_config(exits=EXITS, exit_readouts=True, exit_readout_width=asked)
    exits = build_network(model).exits
    assert exits.up_MDH.shape == (3, model.width, times * model.width)
    assert exits.down_MHD.shape == (3, times * model.width, model.width)


def test_one_exit_without_a_hidden_layer_is_the_norm_before_the_head() -> None:
    one = build_network(model_config(exits=(NUM_BLOCKS,))).eval()
    normed = build_network(model_config(final_norm=True)).eval()
    shared = {name: value for name, value in one.state_dict().items() if "exits" not in name}
    norm = {"head.norm.weight": one.exits.weight_MD[0], "head.norm.bias": one.exits.bias_MD[0]}
    normed.load_state_dict(shared | norm)
    batch = random_batch(ROWS)
    found, expected = (recommend(network, batch.input_BT, 5, False)[1] for network in (one, normed))
    torch.testing.assert_close(found, expected)


def slow_output(network: SkipRecNetwork, history: History, kept: list[int]) -> torch.Tensor:
    """The state after these blocks, through the norm of the first exit at or behind the last.

    Exits that add up: the sum of the readouts of the states at the exits, up to that exit.
    """
    depth = kept[-1] + 1 if kept else 0
    exit_ = next(number for number, exit_depth in enumerate(EXITS) if exit_depth >= depth)
    if not isinstance(network.exits, ExitReadouts):
        return slow_norm(network, exit_, slow_state(network, history, kept))
    total = torch.zeros(())
    for number in range(exit_ + 1):
        x_TBD = slow_state(network, history, [index for index in kept if index < EXITS[number]])
        hidden_TBH = F.layer_norm(x_TBD, x_TBD.shape[-1:]) @ network.exits.up_MDH[number]
        added_TBD = hidden_TBH.clamp(min=0) @ network.exits.down_MHD[number]
        total = total + slow_norm(network, number, x_TBD + added_TBD)
    return total


def slow_state(network: SkipRecNetwork, history: History, kept: list[int]) -> torch.Tensor:
    x_TBD = history.x_TBD
    for index in kept:
        x_TBD = network.stack.run_block(index, x_TBD, history.context_TBC, history.key_B)
    return x_TBD


def slow_norm(network: SkipRecNetwork, exit_: int, x_TBD: torch.Tensor) -> torch.Tensor:
    weight_D, bias_D = network.exits.weight_MD[exit_], network.exits.bias_MD[exit_]
    return F.layer_norm(x_TBD, x_TBD.shape[-1:], weight_D, bias_D)


def test_a_row_leaves_behind_its_last_kept_block() -> None:
    keep_NBL = torch.tensor([[[1, 0, 1, 0], [0, 0, 0, 0]], [[1, 1, 1, 1], [0, 1, 0, 0]]])
    assert depth_of(keep_NBL.float()).tolist() == [[3, 0], [4, 2]]
    norms = ExitNorms((2, 3, 6), 4)
    assert norms.exit_of(torch.tensor([0, 1, 2, 3, 4, 5, 6])).tolist() == [0, 0, 0, 1, 2, 2, 2]


@each_backbone
@each_kind
@pytest.mark.parametrize("kept", [[], [0], [1], [0, 1], [0, 2], [*range(NUM_BLOCKS)]], ids=str)
@pytest.mark.parametrize("execution", ["masked", "gathered"])
def test_every_execution_ends_with_the_norm_of_the_row(
    backbone: str, readouts: bool | None, kept: list[int], execution: str
) -> None:
    network, history = network_and_history(backbone, readouts)
    keep_BL = torch.ones(ROWS, NUM_BLOCKS)
    keep_BL[1] = 0
    keep_BL[1, kept] = 1  # one row among rows of another depth
    found_TBD = network.encode(history, KeepDecision(keep_BL, None), execution, True)
    torch.testing.assert_close(found_TBD[:, 1], slow_output(network, history, kept)[:, 1])
    everything = [*range(NUM_BLOCKS)]
    torch.testing.assert_close(found_TBD[:, 0], slow_output(network, history, everything)[:, 0])
    last_BD = network.encode_last(history, KeepDecision(keep_BL, None), execution, True)
    torch.testing.assert_close(last_BD, found_TBD[-1])


@each_backbone
@each_kind
def test_prefixes_states_and_shallow_networks_are_the_same_exits(
    backbone: str, readouts: bool | None
) -> None:
    network, history = network_and_history(backbone, readouts)
    states_MTBD = network.states(history, None, EXITS)
    last_MBD = network.prefixes(history, (0, *EXITS))
    for number, depth in enumerate(EXITS):
        expected_TBD = slow_output(network, history, [*range(depth)])
        torch.testing.assert_close(states_MTBD[number], expected_TBD)
        torch.testing.assert_close(last_MBD[1 + number], expected_TBD[-1])
        shallow_TBD = shallow_network(network, depth).encode(history, None, "dense")
        torch.testing.assert_close(shallow_TBD, expected_TBD)
    torch.testing.assert_close(last_MBD[0], slow_output(network, history, [])[-1])
    assert (states_MTBD[0] - states_MTBD[1]).abs().max() > 1e-2, "the control: exits differ"


@each_backbone
@each_kind
def test_states_under_stochastic_depth_are_those_of_gathered(
    backbone: str, readouts: bool | None
) -> None:
    network, history = network_and_history(backbone, readouts)
    generator = torch.Generator().manual_seed(1)
    keep_BL = torch.randint(0, 2, (ROWS, NUM_BLOCKS), generator=generator).float()
    keep_BL[:, -1] = 1  # so that the row leaves at the last exit
    decision = KeepDecision(keep_BL, None)
    last_TBD = network.states(history, decision, (1, NUM_BLOCKS))[-1]
    torch.testing.assert_close(last_TBD, network.encode(history, decision, "gathered", True))


@each_kind
def test_a_decision_at_each_position_has_a_norm_at_each_position(readouts: bool | None) -> None:
    network, history = network_and_history("nextitnet_plus", readouts)
    keep_BL = torch.ones(ROWS, NUM_BLOCKS)
    keep_BL[2, 1:] = 0
    keep_TBL = keep_BL.expand(len(history.x_TBD), -1, -1)
    everywhere, plain = (
        network.encode(history, KeepDecision(keep, None), "masked") for keep in (keep_TBL, keep_BL)
    )
    torch.testing.assert_close(everywhere, plain)


def test_a_policy_runs_on_a_network_with_exits() -> None:
    network = build_network(model_config(exits=EXITS), policy_config("gumbel"))
    batch = random_batch(ROWS)
    history = network.embed_batch(batch)
    decision = network.decide(history, progress=0.5)
    network.encode(history, decision, "masked").square().mean().backward()
    assert all(p.grad.abs().max() > 0 for p in network.policy.parameters())


def test_depths_are_exact_in_bf16() -> None:
    """257 has no place in bf16, which would round it to the exit before."""
    depths = (1, 256, 257)
    network = build_network(model_config(num_blocks=257, width=2, exits=depths)).eval().bfloat16()
    batch = random_batch(2)
    history = network.embed_batch(batch)
    every = KeepDecision(torch.ones(2, 257, dtype=torch.bfloat16), None)
    with torch.inference_mode():
        whole_TBD = network.encode(history, None, "dense")
        assert torch.equal(network.encode(history, every, "gathered"), whole_TBD)
        state_TBD = network.stack.dense(history.x_TBD, history.context_TBC, history.key_B)
        assert torch.equal(whole_TBD, network.exits(state_TBD, torch.tensor(2)))
        assert not torch.equal(whole_TBD, network.exits(state_TBD, torch.tensor(1)))
