"""Keyed random numbers: their quality, and that they are a pure function of the key."""

import numpy as np
import pytest
import torch

from skiprec import keyed_random

NUM_KEYS = 4000
KNOWN_MIX = 4559501383586071901
KNOWN_PERMUTATION = [6, 5, 0, 3, 1, 4, 2, 7]
KNOWN_UNIFORM = [[0.3159042, 0.9434025], [0.5120068, 0.2657376]]
KNOWN_DROPOUT = [
    [1, 1, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 0, 0, 0],
    [0, 0, 1, 0, 0, 1, 1, 0, 1, 1, 0, 1, 1, 1, 0, 1],
]


def keys(num: int = NUM_KEYS, seed: int = 11) -> torch.Tensor:
    """Keys, made as in training."""
    parts = np.arange(num, dtype=np.uint64)
    epoch_key = np.full(num, keyed_random.mix(seed, 0), dtype=np.uint64)
    return torch.from_numpy(keyed_random.mix_array(epoch_key, parts).view(np.int64))


def test_values_have_not_moved() -> None:
    """A run that is resumed with another version must draw the same numbers."""
    assert keyed_random.mix(1, 2, 3) == KNOWN_MIX
    assert keyed_random.permutation(7, 8).tolist() == KNOWN_PERMUTATION
    actual = keyed_random.uniform(torch.tensor([1, -5]), "input", 2)
    torch.testing.assert_close(actual, torch.tensor(KNOWN_UNIFORM), rtol=0, atol=1e-7)
    kept = keyed_random.dropout(torch.ones(2, 2, 8), torch.tensor([1, -5]), "input", 0.5)
    assert (kept > 0).int().flatten(1).tolist() == KNOWN_DROPOUT


@pytest.mark.parametrize("stream", ["gumbel", "input", "negatives"])
def test_uniform_is_uniform(stream: str) -> None:
    """Chi-square over 64 equal bins: 63 degrees of freedom, so about 63 +- 11."""
    u = keyed_random.uniform(keys(), stream, 32).flatten()
    counts = torch.histc(u, bins=64, min=0, max=1)
    expected = len(u) / 64
    assert ((counts - expected) ** 2 / expected).sum() < 63 + 5 * 11.3
    assert abs(u.mean().item() - 0.5) < 4 * (1 / 12) ** 0.5 / len(u) ** 0.5


def test_the_chi_square_sees_noise_that_is_not_uniform() -> None:
    u = keyed_random.uniform(keys(), "gumbel", 32).flatten() ** 1.05
    counts = torch.histc(u, bins=64, min=0, max=1)
    expected = len(u) / 64
    assert ((counts - expected) ** 2 / expected).sum() > 63 + 5 * 11.3


def test_uniform_never_reaches_0_or_1(monkeypatch: pytest.MonkeyPatch) -> None:
    """log(-log(1)) would be infinite Gumbel noise, and two of these would give NaN."""
    for bits in (0, -1):  # the smallest and the largest hash
        monkeypatch.setattr(keyed_random, "_finalise", lambda z, b=bits: torch.full_like(z, b))
        u = keyed_random.uniform(torch.zeros(1, dtype=torch.int64), "any", 3)
        assert ((u > 0) & (u < 1)).all()
        assert torch.isfinite(-torch.log(-torch.log(u))).all()


@pytest.mark.parametrize("pair", ["streams", "neighbours", "keys", "seeds"])
def test_uses_of_a_key_are_uncorrelated(pair: str) -> None:
    first = keyed_random.uniform(keys(), "gumbel", 8)
    other = {
        "streams": lambda: keyed_random.uniform(keys(), "input", 8),
        "neighbours": lambda: first.roll(1, dims=1),
        "keys": lambda: first.roll(1, dims=0),
        "seeds": lambda: keyed_random.uniform(keys(seed=12), "gumbel", 8),
    }[pair]()
    correlation = torch.corrcoef(torch.stack([first.flatten(), other.flatten()]))[0, 1]
    assert abs(correlation) < 4 / first.numel() ** 0.5
    assert not torch.equal(first, other)


def test_a_row_s_noise_is_its_own() -> None:
    """It does not depend on other rows, on the order of calls, or on the amount drawn."""
    key_B = keys(50)
    whole = keyed_random.uniform(key_B, "gumbel", 12)
    assert torch.equal(keyed_random.uniform(key_B[7:9], "gumbel", 12), whole[7:9])
    assert torch.equal(keyed_random.uniform(key_B, "gumbel", 5), whole[:, :5])
    assert torch.equal(keyed_random.uniform(key_B.flip(0), "gumbel", 12).flip(0), whole)


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
def test_dropout_drops_at_its_rate_and_keeps_the_mean(rate: float) -> None:
    x = torch.ones(19, 200, 64)
    out = keyed_random.dropout(x, keys(200), "block-3", rate)
    dropped = (out == 0).float()
    sigma = (rate * (1 - rate)) ** 0.5
    assert abs(dropped.mean().item() - rate) < 4 * sigma / x.numel() ** 0.5
    assert torch.allclose(out[out > 0], torch.tensor(1 / (1 - rate)))
    for dim, size in ((0, 200 * 64), (1, 19 * 64), (2, 19 * 200)):
        others = tuple(d for d in range(3) if d != dim)
        rates = dropped.mean(dim=others)
        assert ((rates - rate).abs() < 5 * sigma / size**0.5).all(), f"uneven along {dim}"


@pytest.mark.parametrize(("dim", "shift"), [(0, 1), (1, 1), (2, 1), (2, 2), (2, 32)])
def test_dropped_elements_do_not_cluster(dim: int, shift: int) -> None:
    kept = (keyed_random.dropout(torch.ones(19, 200, 64), keys(200), "input", 0.5) > 0).float()
    pair = torch.stack([kept.flatten(), kept.roll(shift, dims=dim).flatten()])
    assert abs(torch.corrcoef(pair)[0, 1]) < 5 / kept.numel() ** 0.5


def test_dropout_of_a_row_does_not_depend_on_its_batch() -> None:
    key_B = keys(9)
    x = torch.rand(5, 9, 16)
    whole = keyed_random.dropout(x, key_B, "input", 0.3)
    for row in range(9):
        alone = keyed_random.dropout(x[:, row : row + 1], key_B[row : row + 1], "input", 0.3)
        assert torch.equal(alone, whole[:, row : row + 1])
    assert not torch.equal(whole, keyed_random.dropout(x, key_B + 1, "input", 0.3))
    assert not torch.equal(whole, keyed_random.dropout(x, key_B, "block-0", 0.3))


def test_dropout_has_the_gradient_of_its_mask() -> None:
    x = torch.rand(5, 9, 16, requires_grad=True)
    out = keyed_random.dropout(x, keys(9), "input", 0.3)
    out.sum().backward()
    assert torch.equal(x.grad, (out > 0).float() * (1 / 0.7))


def test_dropout_leaves_its_input_alone_and_keeps_the_dtype() -> None:
    x = torch.ones(3, 4, 8, dtype=torch.bfloat16)
    assert keyed_random.dropout(x, keys(4), "input", 0.5).dtype == torch.bfloat16
    assert (x == 1).all()


@pytest.mark.parametrize("size", [0, 1, 2, 1000])
def test_permutation_is_a_permutation(size: int) -> None:
    order = keyed_random.permutation(keyed_random.mix(3, size), size)
    assert sorted(order.tolist()) == list(range(size))


def test_permutations_of_different_keys_differ_and_mix() -> None:
    first = keyed_random.permutation(keyed_random.mix(1), 1000)
    second = keyed_random.permutation(keyed_random.mix(2), 1000)
    assert not np.array_equal(first, second)
    for order in (first, second):
        displaced = np.abs(order - np.arange(1000)).mean()
        assert 280 < displaced < 390  # a random order moves a row by a third of the length
    assert abs(np.corrcoef(first, second)[0, 1]) < 0.12


def test_mix_depends_on_each_part_and_on_their_order() -> None:
    known = {keyed_random.mix(*parts) for parts in ((1, 2), (2, 1), (1,), (1, 2, 0), (0, 1, 2), ())}
    assert len(known) == 6
    assert keyed_random.mix(-1) == keyed_random.mix(2**64 - 1)
    assert 0 <= keyed_random.mix(5, 6) < 2**64


def test_mixed_keys_do_not_collide() -> None:
    mixed = {keyed_random.mix(seed, epoch) for seed in range(60) for epoch in range(60)}
    assert len(mixed) == 3600
    assert len(keys(200_000).unique()) == 200_000
