"""The controls keep as much as the learned policy does, each in its own way."""

import numpy as np
import pytest

from skiprec.evaluation.measure.arms import (
    ALL_BLOCKS,
    FIXED,
    FULL,
    FULL_BACKBONE,
    POLICY_ARMS,
    RANDOM,
    REPORTED,
    RIVALS,
    SHUFFLED,
    SKIPREC,
    TIMED_ONLY,
    Arm,
    Decided,
    arm_named,
    arms_of,
    concatenate,
    most_kept,
    scored_arms,
    stack_arms,
    take_rows,
)


def draw_decisions(num_rows: int = 4000, seed: int = 0) -> np.ndarray:
    rates = np.linspace(1.0, 0.0, 8)
    return np.random.default_rng(seed).random((num_rows, 8)) < rates


def test_controls_keep_at_the_rate_of_the_policy() -> None:
    keep_RL = draw_decisions()
    arms = arms_of(keep_RL, np.arange(len(keep_RL)))
    assert tuple(arms)[: len(POLICY_ARMS)] == POLICY_ARMS
    assert arms[ALL_BLOCKS].all()
    assert np.array_equal(arms[SKIPREC], keep_RL)
    # Coins: the same rate in every block, whatever the policy's rates are.
    assert np.allclose(arms[RANDOM].mean(0), keep_RL.mean(), atol=0.04)
    assert arms[FIXED].shape == (1, 8)
    assert arms[FIXED].sum() == round(keep_RL.sum(1).mean())
    # Shuffled: the same decisions as often, but other rows'.
    shuffled = arms[SHUFFLED]
    as_numbers = [np.sort(np.packbits(k, axis=1).ravel()) for k in (shuffled, keep_RL)]
    assert np.array_equal(*as_numbers)
    assert (shuffled != keep_RL).any(1).mean() > 0.9


def test_random_follows_the_row_not_its_place() -> None:
    keep_RL, row_R = draw_decisions(50), np.arange(50)
    forward = arms_of(keep_RL, row_R)[RANDOM]
    backward = arms_of(keep_RL[::-1], row_R[::-1].copy())[RANDOM]
    assert np.array_equal(forward, backward[::-1])
    assert not np.array_equal(forward, backward)


def test_fixed_takes_the_most_kept_blocks_and_the_earlier_of_equals() -> None:
    keep_RL = np.array([[0, 1, 1, 0], [0, 1, 0, 1], [0, 1, 1, 1]], bool)
    assert np.flatnonzero(most_kept(keep_RL, 2)[0]).tolist() == [1, 2]
    assert np.flatnonzero(most_kept(keep_RL, 3)[0]).tolist() == [1, 2, 3]
    assert not most_kept(np.zeros((3, 4), bool), 0).any()


def test_the_frontier_is_nested_by_keep_rate() -> None:
    keep_RL = draw_decisions(500)[:, ::-1]  # the last block is kept most
    arms = arms_of(keep_RL, np.arange(500))
    for size in range(8):
        kept = np.flatnonzero(arms[Arm("fixed", size)][0]).tolist()
        assert kept == list(range(8 - size, 8))
    assert Arm("fixed", 8) not in arms, "that is all_blocks"
    rounded = round(keep_RL.sum(1).mean())
    assert np.array_equal(arms[FIXED], arms[Arm("fixed", rounded)])


def test_rows_are_taken_of_every_arm() -> None:
    arms = arms_of(draw_decisions(9), np.arange(9))
    whole = stack_arms(arms, 9)
    for rows, num in ((slice(2, 5), 3), (np.array([0, 4, 8]), 3), (slice(8, 9), 1)):
        taken = take_rows(arms, rows)
        assert np.array_equal(stack_arms(taken, num), whole[:, rows])
        # Of a part of one row, too.
        assert np.array_equal(stack_arms(take_rows(taken, slice(0, num)), num), whole[:, rows])


def test_parts_are_joined_in_order() -> None:
    keep_RL, numbers_RK = draw_decisions(6), np.arange(12, dtype=np.float32).reshape(6, 2)
    parts = [Decided(keep_RL[:4], numbers_RK[:4]), Decided(keep_RL[4:], numbers_RK[4:])]
    joined = concatenate(parts)
    assert np.array_equal(joined.keep_RL, keep_RL)
    assert joined.numbers_RK is not None
    assert np.array_equal(joined.numbers_RK, numbers_RK)
    assert concatenate([Decided(keep_RL, None)]).numbers_RK is None


def test_an_arm_has_one_name_for_its_report_and_its_columns() -> None:
    fixed = Arm("fixed", 3)
    assert (fixed.name, fixed.rank_column) == ("fixed_03", "rank_fixed_03")
    assert (fixed.flops_column, SKIPREC.time_column) == ("flops_fixed_03", "time_skiprec_s")
    assert Arm("learned", 12).blocks_kept_column == "blocks_kept_learned_12"
    arms = [*REPORTED, *TIMED_ONLY, FULL, fixed, Arm("learned", 0), Arm("fixed", 100)]
    assert [arm_named(arm.name) for arm in arms] == arms
    assert len({arm.name for arm in arms}) == len(arms)
    columns = ["user", "rank_full_backbone", "flops_fixed", "rank_fixed_03", "rank_learned_00"]
    assert scored_arms(columns) == [FULL_BACKBONE, fixed, Arm("learned", 0)]
    for name in ("nobody", "fixed_", "fixed_x", "rank_fixed"):
        with pytest.raises(ValueError, match="no arm is named"):
            arm_named(name)


def test_arms_are_points_of_the_frontier_or_decided_by_the_policy() -> None:
    sets = [ALL_BLOCKS, Arm("fixed", 0)]
    decided = [SKIPREC, SHUFFLED, Arm("learned", 1)]
    for arm in (*sets, *decided, FIXED, RANDOM, FULL_BACKBONE, FULL):
        assert arm.is_fixed_set == (arm in sets)
        assert arm.is_decided_by_the_policy == (arm in decided)
    assert [arm.name for arm in RIVALS] == [
        *("full_backbone", "all_blocks", "random", "fixed", "frontier", "hull", "shuffled")
    ]


def test_the_fixed_sets_of_a_network_with_exits_are_its_exits() -> None:
    """At other depths no norm has been trained, so a policy would beat them for free."""
    keep_RL = np.zeros((40, 8), bool)
    keep_RL[:, :2] = True
    keep_RL[:30, 5:8] = True  # 4.25 blocks on average, and not the first ones
    arms = arms_of(keep_RL, np.arange(40), exits=(2, 4, 6, 8))
    sizes = {arm.number: keep for arm, keep in arms.items() if arm.is_fixed_set and arm.number}
    assert set(sizes) == {2, 4, 6}
    for size, keep_1L in [*sizes.items(), (4, arms[FIXED])]:
        assert np.flatnonzero(keep_1L[0]).tolist() == [*range(size)]
    plain = arms_of(keep_RL, np.arange(40))
    assert np.flatnonzero(plain[FIXED][0]).tolist() != [0, 1, 2, 3]
