"""Gumbel sampling: frequencies of the samples, and the gradient of the relaxed samples."""

import pytest
import torch

from skiprec import keyed_random
from skiprec.policy.decisions import KEEP, SKIP, argmax_keep
from skiprec.policy.gumbel.module import gumbel_keep

NUM_ROWS = 20_000


def keys(num: int = NUM_ROWS) -> torch.Tensor:
    generator = torch.Generator().manual_seed(4)
    return torch.randint(-(2**62), 2**62, (num,), generator=generator)


@pytest.mark.parametrize("temperature", [0.1, 1.0, 10.0])
def test_samples_follow_the_keep_probability_at_any_temperature(temperature: float) -> None:
    probability_L = torch.tensor([0.02, 0.3, 0.5, 0.85, 0.99])
    logits_L2 = torch.stack([(1 - probability_L).log(), probability_L.log()], dim=-1)
    decision = gumbel_keep(logits_L2.expand(NUM_ROWS, -1, -1), temperature, keys())
    sigma_L = (probability_L * (1 - probability_L) / NUM_ROWS) ** 0.5
    assert ((decision.keep_BL.mean(0) - probability_L).abs() < 4 * sigma_L).all()
    torch.testing.assert_close(decision.prob_BL[0], probability_L)
    off_diagonal = torch.corrcoef(decision.keep_BL.t()) - torch.eye(5)
    assert off_diagonal.abs().max() < 5 / NUM_ROWS**0.5, "blocks are sampled independently"


def test_the_keep_logit_is_the_second_one() -> None:
    assert (SKIP, KEEP) == (0, 1)
    logits = torch.tensor([[[0.0, 9.0], [9.0, 0.0]]])
    assert argmax_keep(logits).keep_BL.tolist() == [[1.0, 0.0]]
    assert gumbel_keep(logits.expand(50, -1, -1), 1.0, keys(50)).keep_BL.mean(0)[0] > 0.9


@pytest.mark.parametrize("temperature", [0.5, 2.0])
def test_the_gradient_is_that_of_the_relaxed_sample(temperature: float) -> None:
    key_B, generator = keys(6), torch.Generator().manual_seed(0)
    logits = torch.randn(6, 3, 2, generator=generator).requires_grad_()
    weight = torch.randn(6, 3, generator=generator)
    (gumbel_keep(logits, temperature, key_B).keep_BL * weight).sum().backward()
    actual, logits.grad = logits.grad, None

    u = keyed_random.uniform(key_B, "gumbel", 6).view(6, 3, 2)
    relaxed = torch.softmax((logits - (-u.log()).log()) / temperature, dim=-1)[..., KEEP]
    (relaxed * weight).sum().backward()
    torch.testing.assert_close(actual, logits.grad)
    assert actual.abs().max() > 1e-3


def test_the_hard_sample_is_the_relaxed_one_rounded() -> None:
    logits = torch.zeros(200, 4, 2)
    u = keyed_random.uniform(keys(200), "gumbel", 8).view(200, 4, 2)
    relaxed = torch.softmax(-(-u.log()).log(), dim=-1)[..., KEEP]
    keep_BL = gumbel_keep(logits, 1.0, keys(200)).keep_BL
    assert torch.equal(keep_BL, relaxed.round())


def test_noise_belongs_to_the_key() -> None:
    logits = torch.zeros(40, 4, 2)
    key_B = keys(40)
    whole = gumbel_keep(logits, 1.0, key_B).keep_BL
    assert torch.equal(gumbel_keep(logits[:3], 1.0, key_B[10:13]).keep_BL, whole[10:13])
    assert not torch.equal(gumbel_keep(logits, 1.0, key_B + 1).keep_BL, whole)


def test_a_deeper_net_keeps_the_noise_of_its_first_blocks() -> None:
    shallow = gumbel_keep(torch.zeros(40, 4, 2), 1.0, keys(40)).keep_BL
    deep = gumbel_keep(torch.zeros(40, 9, 2), 1.0, keys(40)).keep_BL
    assert torch.equal(deep[:, :4], shallow)


def test_half_precision_logits_still_give_exact_decisions() -> None:
    logits = torch.randn(100, 4, 2, generator=torch.Generator().manual_seed(1)).bfloat16()
    keep_BL = gumbel_keep(logits, 0.5, keys(100)).keep_BL
    assert keep_BL.dtype == torch.float32
    assert ((keep_BL == 0) | (keep_BL == 1)).all()


def test_equal_logits_skip_in_serving() -> None:
    assert (argmax_keep(torch.zeros(2, 3, 2)).keep_BL == 0).all()
