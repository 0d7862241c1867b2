"""HSTU and LiGR beside slow and obvious forms: row by row, query by query, key by key."""

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from skiprec.models import hstu_attention
from skiprec.models.hstu import HstuBlock, time_buckets
from skiprec.models.ligr import LigrBlock
from skiprec.types import PADDING
from tests.testkit.networks import WINDOW, build_network, model_config, random_batch

HEADS, POSITIONS = 2, 12


def layer_norm(x_D: Tensor, weight: Tensor | float = 1.0, bias: Tensor | float = 0.0) -> Tensor:
    variance = ((x_D - x_D.mean()) ** 2).mean()
    return (x_D - x_D.mean()) / (variance + 1e-5).sqrt() * weight + bias


def inputs(backbone: str, **changes: Any) -> tuple[torch.nn.Module, Tensor, Tensor, Tensor]:
    """A block, the rows it reads, where items are, and its branch."""
    model = model_config(backbone, num_heads=HEADS, max_positions=POSITIONS, **changes)
    network, batch = build_network(model).double().eval(), random_batch(5)
    history = network.embed_batch(batch)
    block = network.stack.blocks[1]
    branch_TBD = block(history.x_TBD, history.context_TBC)
    return block, history.x_TBD, (batch.input_BT != PADDING).t(), branch_TBD


def bucket(milliseconds: int) -> int:
    return min(128, math.floor(math.log(max(1, abs(milliseconds) // 1000)) / 0.301))


@torch.no_grad()
@pytest.mark.parametrize("time", [None, "history", "request"])
def test_hstu_is_its_equations(time: str | None) -> None:
    block, x_TBD, is_item_TB, branch_TBD = inputs("hstu", time=time)
    times_BW = random_batch(5).times_BW.tolist()
    query = 1 if time == "request" else 0
    assert isinstance(block, HstuBlock)
    T, B, D = x_TBD.shape
    channels = D // HEADS
    for row in range(B):
        places = [t for t in range(T) if is_item_TB[t, row]]
        uvqk = {t: F.silu(layer_norm(x_TBD[t, row]) @ block.weight_DE).view(4, D) for t in places}
        for i in places:
            mixed = torch.zeros(D, dtype=torch.float64)
            for j in (t for t in places if t <= i):
                bias = block.bias_P[i - j]
                if time is not None:
                    passed = times_BW[row][i + query] - times_BW[row][j]
                    bias = bias + block.time_bias_N1[bucket(passed), 0]
                for head in range(HEADS):
                    part = slice(head * channels, (head + 1) * channels)
                    score = uvqk[i][2, part] @ uvqk[j][3, part] + bias
                    mixed[part] += F.silu(score) / POSITIONS * uvqk[j][1, part]
            expected = (layer_norm(mixed) * uvqk[i][0]) @ block.out_DE
            torch.testing.assert_close(branch_TBD[i, row], expected)
    assert (branch_TBD[~is_item_TB] == 0).all()


@pytest.mark.parametrize("reads_time", [False, True])
@pytest.mark.parametrize("rows_a_chunk", [1, 2, 5])
def test_attention_in_chunks_is_attention_of_the_whole_batch(
    reads_time: bool, rows_a_chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    generator, (B, H, T, C, N) = torch.Generator().manual_seed(3), (5, 2, 7, 3, 4)
    monkeypatch.setattr(hstu_attention, "CHUNK_SCORES", rows_a_chunk * H * T * T)

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64, requires_grad=True)

    q, k, v, bias_TT, time_bias_N = (
        draw(B, H, T, C),
        draw(B, H, T, C),
        draw(B, H, T, C),
        draw(T, T),
        draw(N),
    )
    bucket_BTT = torch.randint(0, N, (B, T, T), generator=generator)
    is_future_TT = torch.ones(T, T).triu(1).bool()
    hidden_TT = bias_TT.masked_fill(is_future_TT, hstu_attention.HIDE)
    by_time = (time_bias_N, bucket_BTT) if reads_time else ()
    leaves = (q, k, v, bias_TT) + ((time_bias_N,) if reads_time else ())
    out = hstu_attention.pointwise_attention(q, k, v, hidden_TT, *by_time)

    score = q @ k.transpose(2, 3) + bias_TT
    if reads_time:
        score = score + time_bias_N[bucket_BTT][:, None]
    expected = F.silu(score).masked_fill(is_future_TT, 0) @ v
    torch.testing.assert_close(out, expected)
    weight = torch.randn(B, H, T, C, generator=generator, dtype=torch.float64)
    for found, known in zip(
        torch.autograd.grad((out * weight).sum(), leaves),
        torch.autograd.grad((expected * weight).sum(), leaves),
        strict=True,
    ):
        torch.testing.assert_close(found, known)


def test_buckets_are_those_of_the_formula() -> None:
    ends = [0, 1, 999, 1000, 1999, 2000, 86_400_000, 10**12, 2**62]
    times_BW = torch.tensor([[0, end, 0] for end in ends])
    found_TBT = time_buckets(times_BW, "request")
    assert found_TBT[0, :, 0].tolist() == [bucket(end) for end in ends]
    assert found_TBT[1, :, 1].tolist() == [bucket(end) for end in ends]
    assert (time_buckets(times_BW, "history")[0, :, 0] == 0).all()


@torch.no_grad()
@pytest.mark.parametrize(("time", "late"), [("history", 0), ("request", 1)])
def test_a_time_changes_the_outputs_from_its_own_position_on(time: str, late: int) -> None:
    """And in a network that reads the request's time one position earlier, not more."""
    network, batch = build_network(model_config("hstu", time=time)).eval(), random_batch(1)
    assert batch.times_BW is not None
    before = network.encode(network.embed_batch(batch), None, "dense")
    for position in range(2, WINDOW):
        times_BW = batch.times_BW.clone()
        times_BW[:, position] += 10**12
        changed = network.embed_batch(replace(batch, times_BW=times_BW))
        differs_T = (network.encode(changed, None, "dense") != before).any(2)[:, 0]
        first = position - late
        assert not differs_T[:first].any()
        assert differs_T[first:].all()


def test_a_network_that_reads_time_refuses_rows_without_times() -> None:
    network, batch = build_network(model_config("hstu", time="request")), random_batch(2)
    with pytest.raises(ValueError, match=r"model.time='request' .* these have none; build"):
        network.embed(batch.input_BT, batch.key_B)
    of_ligr = model_config("ligr", time="history")
    with pytest.raises(ValueError, match=r"model.time has no effect with .*'ligr'; remove it"):
        build_network(of_ligr)


@torch.no_grad()
def test_ligr_is_its_equations() -> None:
    block, x_TBD, is_item_TB, branch_TBD = inputs("ligr")
    assert isinstance(block, LigrBlock)
    T, B, D = x_TBD.shape
    channels = D // HEADS
    norms = [(norm.weight, norm.bias) for norm in (block.norm_1, block.norm_2)]
    for row in range(B):
        places = [t for t in range(T) if is_item_TB[t, row]]
        qkv = {
            t: (layer_norm(x_TBD[t, row], *norms[0]) @ block.attention.weight_DE).view(3, D)
            for t in places
        }
        for i in places:
            mixed = torch.zeros(D, dtype=torch.float64)
            earlier = [t for t in places if t <= i]
            for head in range(HEADS):
                part = slice(head * channels, (head + 1) * channels)
                scores = [qkv[i][0, part] @ qkv[j][1, part] / math.sqrt(channels) for j in earlier]
                weights = torch.stack(scores).softmax(0)
                for weight, j in zip(weights, earlier, strict=True):
                    mixed[part] += weight * qkv[j][2, part]
            x = x_TBD[i, row]
            gate_1 = torch.sigmoid(x @ block.gate_1.weight_DE + block.gate_1.bias_E)
            y = x + gate_1 * (mixed @ block.out_DE)
            gate_2 = torch.sigmoid(y @ block.gate_2.weight_DE + block.gate_2.bias_E)
            n = layer_norm(y, *norms[1])
            one, two = n @ block.inner_DE[:, : 4 * D], n @ block.inner_DE[:, 4 * D :]
            z = y + gate_2 * ((F.silu(one) * two) @ block.outer_DE)
            torch.testing.assert_close(branch_TBD[i, row], z - x)
    assert (branch_TBD[~is_item_TB] == 0).all()


@torch.no_grad()
def test_cosine_scores_are_cosines_over_the_temperature() -> None:
    for tied in (None, True):
        model = model_config(cosine_temperature=0.2, tied_items=tied)
        network = build_network(model)
        assert network.head.bias_V is None
        assert not any("bias_V" in name for name, _ in network.item_tables())
        x_ND = torch.randn(4, model.width)
        found_NV = network.head(x_ND, lambda x, scores: scores.columns(x, 0, scores.num_items))
        vectors_VD = network.head.weight_VD
        expected_NV = F.cosine_similarity(x_ND[:, None], vectors_VD[None], dim=2) / 0.2
        torch.testing.assert_close(found_NV, expected_NV)
