"""The two losses against their plain formulas, and the distribution of the negatives."""

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from skiprec.scores import DotProduct
from skiprec.training.losses import (
    Negatives,
    draw_negatives,
    full_softmax,
    log_uniform_prob,
    sampled_softmax,
)

V, D, N = 60, 8, 40
CPU = torch.device("cpu")


def leaves(num_positions: int = N, num_items: int = V) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    x_ND = torch.randn(num_positions, D, generator=generator).requires_grad_()
    weight_VD = torch.randn(num_items, D, generator=generator).requires_grad_()
    bias_V = torch.randn(num_items, generator=generator).requires_grad_()
    target_N = torch.randint(1, num_items + 1, (num_positions,), generator=generator)
    return x_ND, weight_VD, bias_V, target_N


def plain(x_ND: Tensor, weight_VD: Tensor, bias_V: Tensor, target_N: Tensor) -> Tensor:
    return F.cross_entropy(F.linear(x_ND, weight_VD, bias_V), target_N - 1, reduction="sum")


@pytest.mark.parametrize("num_positions", [1, N, 3000])
def test_full_softmax_equals_plain_cross_entropy_with_its_gradients(num_positions: int) -> None:
    *parts, target_N = leaves(num_positions)
    full = full_softmax(parts[0], DotProduct(*parts[1:]), target_N=target_N)
    actual = torch.autograd.grad(full, parts)
    expected_loss = plain(*parts, target_N)
    expected = torch.autograd.grad(expected_loss, parts)
    torch.testing.assert_close(full, expected_loss)
    for mine, theirs in zip(actual, expected, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-5)


def test_full_softmax_says_when_scores_are_no_product() -> None:
    class OtherScores:
        num_items = V

    with pytest.raises(ValueError, match=r"set loss\.kind='sampled'"):
        full_softmax(leaves()[0], OtherScores(), target_N=leaves()[3])  # type: ignore[arg-type]


def test_full_softmax_of_no_position_is_zero_with_zero_gradients() -> None:
    """A rank may have fill rows only."""
    *parts, target_N = leaves(0)
    loss = full_softmax(parts[0], DotProduct(*parts[1:]), target_N=target_N)
    assert loss.item() == 0
    for gradient in torch.autograd.grad(loss, parts):
        assert (gradient == 0).all()


class LargestTensor(TorchDispatchMode):
    """The number of elements of the largest tensor that any operation makes."""

    def __init__(self) -> None:
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, tuple | list) else [out]:
            if isinstance(tensor, Tensor):
                self.elements = max(self.elements, tensor.numel())
        return out


def test_full_softmax_never_holds_scores_of_every_position_for_every_item() -> None:
    *parts, target_N = leaves(4096, num_items=5000)
    with LargestTensor() as chunked:
        full_softmax(parts[0], DotProduct(*parts[1:]), target_N=target_N).backward()
    with LargestTensor() as at_once:
        plain(*parts, target_N).backward()
    assert at_once.elements == 4096 * 5000
    assert chunked.elements < 4096 * 5000 / 2


def obvious_sampled(
    x_ND: Tensor, weight_VD: Tensor, bias_V: Tensor, target_N: Tensor, negative_S: Tensor
) -> Tensor:
    """The loss of sampled softmax, position by position and item by item."""
    total = x_ND.new_zeros(())
    for x_D, target in zip(x_ND, target_N.tolist(), strict=True):
        positive = x_D @ weight_VD[target - 1] + bias_V[target - 1]
        scores = [positive]
        for item in negative_S.tolist():
            if item != target:
                q = math.log((item + 1) / item) / math.log(len(weight_VD) + 1)
                score = x_D @ weight_VD[item - 1] + bias_V[item - 1]
                scores.append(score - math.log(q * len(negative_S)))
        total = total + torch.stack(scores).logsumexp(0) - positive
    return total


def test_sampled_softmax_equals_the_obvious_form_with_its_gradients() -> None:
    *parts, target_N = leaves()
    negative_S = draw_negatives(3, 25, V, CPU)
    assert torch.isin(negative_S, target_N).any(), "a negative must equal a target"
    scores = DotProduct(*parts[1:])
    loss = sampled_softmax(
        parts[0], scores, target_N=target_N, negatives=Negatives(negative_S[None])
    )
    expected_loss = obvious_sampled(*parts, target_N, negative_S)
    torch.testing.assert_close(loss, expected_loss)
    pairs = zip(
        torch.autograd.grad(loss, parts), torch.autograd.grad(expected_loss, parts), strict=True
    )
    for mine, theirs in pairs:
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-5)


def test_sampled_softmax_tends_to_the_full_one() -> None:
    *parts, target_N = leaves()
    with torch.no_grad():
        full = plain(*parts, target_N).item()
        errors = []
        for num_negatives in (10, 1000, 100_000):
            losses = [
                sampled_softmax(
                    parts[0],
                    DotProduct(*parts[1:]),
                    target_N=target_N,
                    negatives=Negatives(draw_negatives(key, num_negatives, V, CPU)[None]),
                ).item()
                for key in range(5)
            ]
            errors.append(abs(sum(losses) / 5 - full) / full)
    assert errors[2] < 0.005
    assert errors[0] > errors[1] > errors[2]


def test_the_rare_items_of_a_large_catalogue_are_drawn_one_by_one() -> None:
    """The last tenth of ten million items: a coarser draw would reach one id in twenty."""
    num_items, num_drawn = 10_000_000, 400_000
    drawn = draw_negatives(5, num_drawn, num_items, CPU)
    tail = drawn[drawn > 0.9 * num_items]
    expected = num_drawn * math.log(1 / 0.9) / math.log(num_items + 1)
    assert abs(len(tail) / expected - 1) < 0.1
    assert len(tail.unique()) > 0.995 * len(tail)
    assert int(drawn.min()) == 1
    assert int(drawn.max()) <= num_items


def test_the_estimate_of_the_partition_is_unbiased() -> None:
    """E[sum over negatives of exp(s_j) / (S q_j)] is the sum over all items but the target."""
    num_keys, num_rows = 1500, 2
    *parts, target_N = leaves(num_rows)
    with torch.no_grad():
        score_NV = F.linear(*parts)
        positive_N = score_NV.gather(1, target_N[:, None] - 1)[:, 0]
        expected_N = score_NV.exp().sum(1) - positive_N.exp()
        estimates = []
        for key in range(num_keys):
            for row in range(num_rows):
                loss = sampled_softmax(
                    parts[0][row : row + 1],
                    DotProduct(*parts[1:]),
                    target_N=target_N[row : row + 1],
                    negatives=Negatives(draw_negatives(key, 20, V, CPU)[None]),
                )
                estimates.append((loss + positive_N[row]).exp() - positive_N[row].exp())
    sample = torch.stack(estimates).view(num_keys, num_rows)
    error = (sample.mean(0) - expected_N).abs()
    assert (error < 4 * sample.std(0) / num_keys**0.5).all()
    assert (sample.std(0) / expected_N < 5).all(), "the bound above must be able to fail"


def test_negatives_follow_the_log_uniform_distribution() -> None:
    """Chi-square over the whole catalogue: V - 1 degrees of freedom."""
    num = 200_000
    negative_S = draw_negatives(11, num, V, CPU)
    q_V = log_uniform_prob(torch.arange(1, V + 1), V)
    assert abs(q_V.sum().item() - 1) < 1e-5
    counts_V = torch.bincount(negative_S, minlength=V + 1)
    assert counts_V[0] == 0, "padding is not an item"
    chi_square = ((counts_V[1:] - num * q_V) ** 2 / (num * q_V)).sum()
    assert chi_square < (V - 1) + 5 * (2 * (V - 1)) ** 0.5
    uniform_V = torch.full((V,), 1 / V)
    wrong = ((counts_V[1:] - num * uniform_V) ** 2 / (num * uniform_V)).sum()
    assert wrong > 100 * V, "the control: the measure rejects another distribution"


@pytest.mark.parametrize("num_items", [1, 2, 50_000])
def test_negatives_stay_within_the_catalogue(num_items: int) -> None:
    negative_S = draw_negatives(2**64 - 1, 50_000, num_items, CPU)
    assert negative_S.min() >= 1
    assert negative_S.max() <= num_items


def test_negatives_are_a_function_of_the_key() -> None:
    first = draw_negatives(5, 100, V, CPU)
    assert torch.equal(draw_negatives(5, 100, V, CPU), first)
    assert not torch.equal(draw_negatives(6, 100, V, CPU), first)
    assert torch.equal(draw_negatives(5, 30, V, CPU), first[:30])


def test_uniform_negatives_are_uniform_and_the_same_for_a_prefix() -> None:
    num = 200_000
    negative_S = draw_negatives(11, num, V, CPU, uniform=True)
    count_V = torch.bincount(negative_S, minlength=V + 1)[1:]
    expected = num / V
    assert count_V.sum() == num
    assert (count_V - expected).abs().max() < 5 * math.sqrt(expected)
    assert torch.equal(draw_negatives(11, 30, V, CPU, uniform=True), negative_S[:30])
    assert int(draw_negatives(7, 50_000, 3, CPU, uniform=True).max()) == 3


def test_uniform_negatives_tend_to_the_full_loss_as_the_others_do() -> None:
    *parts, target_N = leaves()
    exact = plain(*parts, target_N).item()
    means = []
    for uniform in (True, False):
        scores = DotProduct(parts[1], parts[2])
        losses = [
            sampled_softmax(
                parts[0],
                scores,
                target_N=target_N,
                negatives=Negatives(
                    draw_negatives(key, 3000, V, CPU, uniform)[None], uniform=uniform
                ),
            ).item()
            for key in range(20)
        ]
        means.append(sum(losses) / len(losses))
    assert means == pytest.approx([exact, exact], rel=0.02)
    wrong = sampled_softmax(
        parts[0],
        DotProduct(parts[1], parts[2]),
        target_N=target_N,
        negatives=Negatives(draw_negatives(0, 3000, V, CPU, uniform=True)[None]),
    ).item()
    assert abs(wrong - exact) > 0.02 * exact, "the control: the other correction is wrong"


def test_each_position_takes_the_negatives_of_its_set() -> None:
    *parts, target_N = leaves()
    scores, num_sets, num = DotProduct(parts[1], parts[2]), 3, 20
    item_GS = draw_negatives(9, num_sets * num, V, CPU).view(num_sets, num)
    set_N = torch.randint(0, num_sets - 1, (len(target_N),))  # no position takes the last set
    loss = sampled_softmax(parts[0], scores, target_N=target_N, negatives=Negatives(item_GS, set_N))
    expected = sum(
        obvious_sampled(
            parts[0][n : n + 1], *parts[1:], target_N[n : n + 1], item_GS[int(set_N[n])]
        )
        for n in range(len(target_N))
    )
    torch.testing.assert_close(loss, expected)
    pairs = zip(torch.autograd.grad(loss, parts), torch.autograd.grad(expected, parts), strict=True)
    for mine, theirs in pairs:
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-5)
