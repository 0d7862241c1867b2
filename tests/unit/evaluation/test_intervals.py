"""Bootstrap over users: what is resampled together, what is paired, and how wide it gets."""

import numpy as np

from skiprec.evaluation.measure import intervals
from skiprec.evaluation.measure.intervals import SEED, UserBootstrap, interval, median_ratio


def test_resampled_means_are_means_over_the_rows_of_drawn_users(monkeypatch) -> None:
    monkeypatch.setattr(intervals, "RESAMPLES", 7)
    user_R = np.array([5, 5, 9, 9, 9, 2], np.int32)
    value_RC = np.random.default_rng(0).random((6, 2))
    found = UserBootstrap(user_R).resampled_means(value_RC)
    draw = np.random.default_rng(SEED)
    for picks, means in zip(draw.integers(0, 3, (7, 3)), found, strict=True):
        rows = [row for pick in picks for row in np.flatnonzero(user_R == [2, 5, 9][pick])]
        assert np.allclose(means, value_RC[rows].mean(0))
    monkeypatch.setattr(intervals, "DRAWN", 6)  # two resamples at once
    assert np.array_equal(UserBootstrap(user_R).resampled_means(value_RC), found)


def test_copies_of_a_users_rows_add_no_certainty() -> None:
    value_U = np.random.default_rng(1).random(300)
    users = np.arange(300, dtype=np.int32)

    def width(user_R: np.ndarray, value_R: np.ndarray) -> float:
        low, high = interval(UserBootstrap(user_R).resampled_means(value_R[:, None])[:, 0])
        return high - low

    once = width(users, value_U)
    assert abs(once / (2 * 1.96 * value_U.std() / np.sqrt(300)) - 1) < 0.1
    copied = width(np.repeat(users, 9), np.repeat(value_U, 9))
    assert abs(copied / once - 1) < 0.01
    # Control: as if the copies were users of their own, three times narrower and wrong.
    as_if_own = width(np.arange(2700, dtype=np.int32), np.repeat(value_U, 9))
    assert as_if_own < 0.45 * once


def test_differences_are_paired() -> None:
    draw = np.random.default_rng(2)
    a_R = draw.random(500)
    b_R = a_R + 0.01 + 0.001 * draw.standard_normal(500)
    resampled = UserBootstrap(np.arange(500, dtype=np.int32)).resampled_means(
        np.stack([a_R, b_R], axis=1)
    )
    low, high = interval(resampled[:, 1] - resampled[:, 0])
    assert 0.0095 < low < 0.01 < high < 0.0105
    assert interval(resampled[:, 0])[1] > interval(resampled[:, 1])[0]  # each alone: they overlap


def test_median_ratio_pairs_what_happened_together() -> None:
    draw = np.random.default_rng(3)
    load_N = np.exp(draw.standard_normal(200))  # a machine whose speed drifts by a lot
    full_N = 2 * load_N * (1 + 0.01 * draw.standard_normal(200))
    ratio, (low, high) = median_ratio(full_N, load_N)
    assert 1.98 < low < ratio < high < 2.02
    _, (low, high) = median_ratio(draw.permutation(full_N), load_N)  # control: unpaired
    assert high - low > 0.3
