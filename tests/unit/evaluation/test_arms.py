"""The controls keep as much as the learned policy does, each in its own way."""

import numpy as np

from skiprec.evaluation.arms import POLICY_ARMS, controls_of, most_kept_blocks


def draw_decisions(num_rows: int = 4000, seed: int = 0) -> np.ndarray:
    rates = np.linspace(1.0, 0.0, 8)
    return np.random.default_rng(seed).random((num_rows, 8)) < rates


def arm(keep_ARL: np.ndarray, name: str) -> np.ndarray:
    return keep_ARL[POLICY_ARMS.index(name)]


def test_controls_keep_at_the_rate_of_the_policy() -> None:
    keep_RL = draw_decisions()
    keep_ARL = controls_of(keep_RL, np.arange(len(keep_RL))).keep_ARL
    assert arm(keep_ARL, "all_blocks").all()
    assert np.array_equal(arm(keep_ARL, "skiprec"), keep_RL)
    # Coins: the same rate in every block, whatever the policy's rates are.
    assert np.allclose(arm(keep_ARL, "random").mean(0), keep_RL.mean(), atol=0.04)
    fixed = arm(keep_ARL, "fixed")
    assert (fixed == fixed[0]).all()
    assert fixed[0].sum() == round(keep_RL.sum(1).mean())
    # Shuffled: the same decisions as often, but other rows'.
    shuffled = arm(keep_ARL, "shuffled")
    as_numbers = [np.sort(np.packbits(k, axis=1).ravel()) for k in (shuffled, keep_RL)]
    assert np.array_equal(*as_numbers)
    assert (shuffled != keep_RL).any(1).mean() > 0.9


def test_random_follows_the_row_not_its_place() -> None:
    keep_RL, row_R = draw_decisions(50), np.arange(50)
    forward = arm(controls_of(keep_RL, row_R).keep_ARL, "random")
    backward = arm(controls_of(keep_RL[::-1], row_R[::-1].copy()).keep_ARL, "random")
    assert np.array_equal(forward, backward[::-1])
    assert not np.array_equal(forward, backward)


def test_fixed_takes_the_most_kept_blocks_and_the_earlier_of_equals() -> None:
    keep_RL = np.array([[0, 1, 1, 0], [0, 1, 0, 1], [0, 1, 1, 1]], bool)
    assert most_kept_blocks(keep_RL) == (1, 2)
    assert most_kept_blocks(np.zeros((3, 4), bool)) == ()
