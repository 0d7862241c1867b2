"""The loop over blocks: the rows of each call, and refused arguments."""

import pytest
import torch
from torch import Tensor, nn

from skiprec.models.stack import BlockStack, are_nested, split_rows
from skiprec.types import KeepDecision
from tests.testkit.networks import (
    BACKBONE_NAMES,
    NUM_BLOCKS,
    build_blocks,
    build_network,
    model_config,
    random_batch,
)


class CountingBlock(nn.Module):
    """A block whose branch is one; it records the number of rows of each call."""

    def __init__(self) -> None:
        super().__init__()
        self.rows_of_calls: list[int] = []

    def forward(self, x_TBD: Tensor, context_TBC: Tensor) -> Tensor:
        assert context_TBC.shape[1] == x_TBD.shape[1]
        self.rows_of_calls.append(x_TBD.shape[1])
        return torch.ones_like(x_TBD)


KEEP_BL = torch.tensor([[1.0, 0.0, 1.0], [0.0, 0.0, 1.0], [0.0, 0.0, 1.0], [1.0, 0.0, 1.0]])


def run_counting(
    execution: str, call_every_block: bool, keep_BL: Tensor = KEEP_BL
) -> tuple[Tensor, list[list[int]]]:
    blocks = [CountingBlock() for _ in range(3)]
    stack = BlockStack(list(blocks))
    x_TBD = torch.zeros(5, 4, 2)
    with torch.no_grad():
        out = stack(
            x_TBD, torch.ones(5, 4, 1), torch.zeros(4).long(), keep_BL, execution, call_every_block
        )
    assert (x_TBD == 0).all(), "the input of the caller must not change"
    return out, [block.rows_of_calls for block in blocks]


def test_gathered_runs_a_block_on_the_rows_that_keep_it_and_on_no_other() -> None:
    out, rows = run_counting("gathered", call_every_block=False)
    assert rows == [[2], [], [4]]
    assert out[0, :, 0].tolist() == [2.0, 1.0, 1.0, 2.0]


def test_gathered_calls_a_block_that_no_row_keeps_when_asked_to() -> None:
    out, rows = run_counting("gathered", call_every_block=True)
    assert rows == [[2], [0], [4]]
    assert torch.equal(out, run_counting("gathered", call_every_block=False)[0])


def test_masked_and_dense_run_every_block_on_every_row() -> None:
    for execution in ("masked", "dense"):
        assert run_counting(execution, call_every_block=False)[1] == [[4], [4], [4]]


NESTED_BL = torch.tensor([[1.0, 0.0, 0.0], [0.0, 0.0, 0.0], [1.0, 1.0, 1.0], [1.0, 0.0, 0.0]])


def test_nested_decisions_run_each_block_on_a_prefix_of_sorted_rows() -> None:
    out, rows = run_counting("gathered", call_every_block=False, keep_BL=NESTED_BL)
    assert rows == [[3], [1], [1]]
    assert out[0, :, 0].tolist() == [1.0, 0.0, 3.0, 1.0]
    assert are_nested(NESTED_BL)
    assert not are_nested(KEEP_BL)


@pytest.mark.parametrize("backbone", BACKBONE_NAMES)
@pytest.mark.parametrize("depths", [[0, 0, 0], [NUM_BLOCKS] * 3, [1, NUM_BLOCKS, 0], [2, 1, 2]])
def test_nested_execution_has_the_result_of_gathered_execution(
    backbone: str, depths: list[int]
) -> None:
    network = build_network(model_config(backbone)).eval()
    batch = random_batch(3)
    keep_BL = (torch.arange(NUM_BLOCKS) < torch.tensor(depths)[:, None]).float()
    with torch.inference_mode():
        history = network.embed_batch(batch)
        decision = KeepDecision(keep_BL, None)
        nested_TBD = network.encode(history, decision, "gathered")
        expected_TBD = network.encode(history, decision, "gathered", call_every_block=True)
        torch.testing.assert_close(nested_TBD, expected_TBD, rtol=1e-6, atol=1e-6)
        assert torch.equal(nested_TBD[:, 2], history.x_TBD[:, 2]) == (depths[2] == 0)


def test_split_rows_names_the_rows_of_each_block_in_order() -> None:
    assert [rows.tolist() for rows in split_rows(KEEP_BL)] == [[0, 3], [], [0, 1, 2, 3]]


def test_gathered_with_gradients_must_call_every_block() -> None:
    stack = BlockStack([CountingBlock() for _ in range(3)])
    arguments = (torch.zeros(5, 4, 2), torch.ones(5, 4, 1), torch.zeros(4).long(), KEEP_BL)
    with pytest.raises(ValueError, match="call_every_block=True"):
        stack(*arguments, "gathered", False)
    stack(*arguments, "gathered", True)


@pytest.mark.parametrize("execution", ["masked", "gathered"])
def test_an_execution_that_skips_needs_decisions(execution: str) -> None:
    network = build_network(model_config())
    batch = random_batch(3)
    history = network.embed_batch(batch)
    with pytest.raises(ValueError, match="needs keep decisions"):
        network.encode(history, None, execution)


@pytest.mark.parametrize("backbone", BACKBONE_NAMES)
def test_a_block_without_rows_has_zero_gradients_not_none(backbone: str) -> None:
    network = build_network(model_config(backbone))
    batch = random_batch(4)
    keep = torch.ones(4, NUM_BLOCKS)
    keep[:, 1] = 0
    history = network.embed_batch(batch)
    x_TBD = network.encode(history, KeepDecision(keep, None), "gathered", call_every_block=True)
    x_TBD.square().mean().backward()
    for name, parameter in network.stack.blocks[1].named_parameters():
        assert parameter.grad is not None, name
        assert (parameter.grad == 0).all(), name
    assert all((p.grad != 0).any() for p in network.stack.blocks[2].parameters())


@pytest.mark.parametrize("backbone", BACKBONE_NAMES)
@pytest.mark.parametrize("execution", ["dense", "masked", "gathered"])
def test_activation_checkpointing_changes_no_bit(backbone: str, execution: str) -> None:
    """It holds with dropout, because a second forward draws the same masks from the keys."""
    results = []
    for checkpointing in (False, True):
        network = build_network(model_config(backbone, dropout=0.3)).train()
        network.stack.activation_checkpointing = checkpointing
        batch = random_batch(6)
        generator = torch.Generator().manual_seed(5)
        keep = torch.randint(0, 2, (6, NUM_BLOCKS), generator=generator).float()
        history = network.embed_batch(batch)
        x_TBD = network.encode(history, KeepDecision(keep, None), execution, True)
        x_TBD.square().mean().backward()
        results.append([x_TBD, *[p.grad for p in network.stack.parameters()]])
    for plain, checkpointed in zip(*results, strict=True):
        assert torch.equal(checkpointed, plain)


def test_activation_checkpointing_runs_each_block_again_in_the_backward_pass() -> None:
    """The control: activation checkpointing is really on."""

    class Counted(nn.Linear):
        calls = 0

        def forward(self, x_TBD: Tensor, context_TBC: Tensor) -> Tensor:
            Counted.calls += 1
            return super().forward(x_TBD)

    for checkpointing, calls in ((False, 3), (True, 6)):
        Counted.calls = 0
        stack = BlockStack([Counted(2, 2) for _ in range(3)], 0.0, checkpointing)
        stack.dense(
            torch.ones(5, 4, 2), torch.ones(5, 4, 1), torch.zeros(4).long()
        ).sum().backward()
        assert Counted.calls == calls


def test_each_block_drops_other_elements() -> None:
    blocks = build_blocks(model_config())
    stack = BlockStack(blocks, dropout=0.5).train()
    ones, key = torch.ones(6, 5, 8), torch.arange(5)
    masks = [dropout(ones, key) for dropout in stack.dropouts]
    assert not any(torch.equal(masks[0], other) for other in masks[1:])
