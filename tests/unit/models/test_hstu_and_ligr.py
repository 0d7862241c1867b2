"""HSTU and LiGR beside slow and obvious forms: row by row, query by query, key by key."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from skiprec.models.hstu import HstuBlock
from skiprec.models.ligr import LigrBlock
from skiprec.types import PADDING
from tests.testkit.networks import build_network, model_config, random_batch

HEADS, POSITIONS = 2, 12


def layer_norm(x_D: Tensor, weight: Tensor | float = 1.0, bias: Tensor | float = 0.0) -> Tensor:
    variance = ((x_D - x_D.mean()) ** 2).mean()
    return (x_D - x_D.mean()) / (variance + 1e-5).sqrt() * weight + bias


def inputs(backbone: str) -> tuple[torch.nn.Module, Tensor, Tensor, Tensor]:
    """A block, the rows it reads, where items are, and its branch."""
    model = model_config(backbone, num_heads=HEADS, max_positions=POSITIONS)
    network, batch = build_network(model).double().eval(), random_batch(5)
    history = network.embed(batch.input_BT, batch.key_B)
    block = network.stack.blocks[1]
    branch_TBD = block(history.x_TBD, history.is_item_TB1)
    return block, history.x_TBD, (batch.input_BT != PADDING).t(), branch_TBD


@torch.no_grad()
def test_hstu_is_its_equations() -> None:
    block, x_TBD, is_item_TB, branch_TBD = inputs("hstu")
    assert isinstance(block, HstuBlock)
    T, B, D = x_TBD.shape
    channels = D // HEADS
    for row in range(B):
        places = [t for t in range(T) if is_item_TB[t, row]]
        uvqk = {t: F.silu(layer_norm(x_TBD[t, row]) @ block.weight_DE).view(4, D) for t in places}
        for i in places:
            mixed = torch.zeros(D, dtype=torch.float64)
            for j in (t for t in places if t <= i):
                for head in range(HEADS):
                    part = slice(head * channels, (head + 1) * channels)
                    score = uvqk[i][2, part] @ uvqk[j][3, part] + block.bias_P[i - j]
                    mixed[part] += F.silu(score) / POSITIONS * uvqk[j][1, part]
            expected = (layer_norm(mixed) * uvqk[i][0]) @ block.out_DE
            torch.testing.assert_close(branch_TBD[i, row], expected)
    assert (branch_TBD[~is_item_TB] == 0).all()


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
