"""Who is timed next to whom, on which rows, and that a skipping arm does what it claims."""

from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
import torch

from skiprec.evaluation.measure.arms import POLICY_ARMS, arm_named
from skiprec.evaluation.measure.timing import (
    WARMUP_ROUNDS,
    Requests,
    TimingPlan,
    TimingSample,
    arm_stages,
    interleave,
    shallow_network,
    time_arms,
)
from skiprec.inference.executor import embed_requests
from tests.testkit.networks import (
    NUM_BLOCKS,
    build_network,
    model_config,
    policy_config,
    random_batch,
)

PLAN = TimingPlan(batches=(1, 4, 16), repeats=3, k=5, exclude_seen=False)


class Clock:
    """Advances only when a stage works."""

    def __init__(self) -> None:
        self.now = 0.0
        self.log: list[tuple[str, int]] = []

    def __call__(self) -> float:
        return self.now

    def stage(self, name: str, seconds: float):
        def run(index: int) -> None:
            self.log.append((name, index))
            self.now += seconds * (1 + index)  # the machine slows down for everyone alike

        return run


def make_sample(num_rows: int = 10) -> TimingSample:
    network = build_network(model_config("nextitnet_plus"), policy_config("gumbel")).eval()
    items_RT = random_batch(num_rows).input_BT.contiguous()
    decision = network.decide(embed_requests(network, items_RT))
    assert decision is not None
    keep_RL = decision.keep_BL.detach()
    other = torch.zeros(num_rows, NUM_BLOCKS)
    other[:, 0] = 1.0
    keep_ARL = torch.stack([torch.ones_like(keep_RL), keep_RL, other, other, other])
    return TimingSample(items_RT, POLICY_ARMS, keep_ARL)


def test_rounds_are_paired() -> None:
    clock = Clock()
    stages = {"full": clock.stage("full", 2.0), "half": clock.stage("half", 1.0)}
    times = interleave(stages, rounds=4, finish=lambda: None, clock=clock)
    for seconds in (times.cold, times.warm):
        assert seconds["full"].tolist() == [2, 4, 6, 8]
        assert seconds["half"].tolist() == [1, 2, 3, 4]
        assert np.all(seconds["full"] / seconds["half"] == 2)
    timed = clock.log[4 * WARMUP_ROUNDS :]
    assert timed[::2] == timed[1::2]  # each cold run is followed by a warm one
    timed = timed[::2]
    assert [index for _, index in timed] == [0, 0, 1, 1, 2, 2, 3, 3]
    assert all({timed[i][0], timed[i + 1][0]} == set(stages) for i in range(0, 8, 2))


def test_the_first_run_of_a_pair_is_the_cold_one() -> None:
    clock, last = Clock(), [""]

    def stage(name: str):
        def run(index: int) -> None:
            clock.now += 1.0 if last[0] == name else 5.0
            last[0] = name

        return run

    times = interleave({"a": stage("a"), "b": stage("b")}, 50, lambda: None, clock)
    assert (times.warm["a"] == 1).all()
    assert times.cold["a"].mean() > 3


def test_no_stage_has_one_predecessor() -> None:
    clock, num_stages, rounds = Clock(), 13, 512
    stages = {str(place): clock.stage(str(place), 1.0) for place in range(num_stages)}
    interleave(stages, rounds, finish=lambda: None, clock=clock)
    names = [name for name, _ in clock.log[::2]]
    for stage in stages:
        before = Counter(a for a, b in pairwise(names) if b == stage)
        assert max(before.values()) < 0.15 * rounds, "a twelfth of them, give or take"
        assert len(before) >= num_stages - 1


@pytest.mark.parametrize("batch", [1, 3, 4, 8, 16])
def test_every_row_of_the_sample_is_timed_twice(batch: int) -> None:
    network = build_network(model_config("nextitnet_plus"), None).eval()
    num_rows = 10
    items_RT = torch.arange(1, num_rows + 1)[:, None].repeat(1, 9)
    sample = TimingSample(items_RT, (), torch.empty(0))
    with torch.inference_mode():
        calls = Requests(network, sample, PLAN, batch).items
    assert all(len(items_BT) == batch for items_BT in calls)
    rounds = PLAN.rounds(batch, num_rows)
    timed = [calls[index % len(calls)][:, 0] for index in range(rounds)]
    assert torch.bincount(torch.cat(timed), minlength=num_rows + 1)[1:].min() >= 2


def test_stages_compute_what_they_claim() -> None:
    """Each stage's result against dense or masked execution of the same rows."""
    network = build_network(model_config("nextitnet_plus"), policy_config("gumbel")).eval()
    sample = make_sample()
    for batch, last in ((1, 3), (4, 1), (16, 0)):
        with torch.inference_mode():
            stages = arm_stages(network, sample, PLAN, batch)
            row_B = (torch.arange(batch) + last * batch) % len(sample.items_RT)
            history = embed_requests(network, sample.items_RT[row_B])
            found = {name: stage(last) for name, stage in stages.items()}

            def masked(arm: str, history=history, row_B=row_B) -> torch.Tensor:
                keep_BL = sample.keep_ARL[POLICY_ARMS.index(arm_named(arm)), row_B]
                return network.stack.masked(
                    history.x_TBD, history.is_item_TB1, history.key_B, keep_BL
                )[-1]

            close = dict(rtol=1e-4, atol=1e-5)
            for arm in ("skiprec", "random", "fixed"):
                torch.testing.assert_close(found[f"{arm}/blocks"], masked(arm), **close)
            torch.testing.assert_close(found["full/blocks"], masked("all_blocks"), **close)
            torch.testing.assert_close(found["skiprec/policy"], masked("skiprec"), **close)
            torch.testing.assert_close(found["masked/blocks"], masked("skiprec"), **close)
            items_BK, scores_BK = found["skiprec/end"]
            assert items_BK.shape == (batch, PLAN.k)
            torch.testing.assert_close(found["oracle/end"][1], scores_BK, **close)
            assert not torch.equal(found["full/blocks"], found["skiprec/blocks"])


def test_shallow_is_the_first_blocks_and_leaves_the_network_alone() -> None:
    network = build_network(model_config("nextitnet_plus"), policy_config("gumbel")).eval()
    shallow = shallow_network(network, 2)
    history = embed_requests(network, random_batch(5).input_BT)
    with torch.no_grad():
        x_TBD = history.x_TBD
        for block in list(network.stack.blocks)[:2]:
            x_TBD = x_TBD + block(x_TBD, history.is_item_TB1)
        assert torch.equal(shallow.encode(history, None, "dense"), x_TBD)
    assert shallow.policy is None
    assert network.policy is not None
    assert len(network.stack.blocks) == NUM_BLOCKS


@pytest.mark.parametrize("with_policy", [True, False])
def test_seconds_of_every_stage_and_batch(with_policy: bool) -> None:
    policy = policy_config("gumbel") if with_policy else None
    network = build_network(model_config("nextitnet_plus"), policy).eval()
    sample = make_sample()
    if not with_policy:
        sample = TimingSample(sample.items_RT, (), torch.empty(0))
    ticks = iter(range(10**6))
    times_of = time_arms(network, sample, PLAN, clock=lambda: float(next(ticks)))
    assert times_of.keys() == set(PLAN.batches)
    assert all(times.cold.keys() == times.warm.keys() for times in times_of.values())
    seconds = {batch: times.cold for batch, times in times_of.items()}
    assert {len(times) for times in seconds[1].values()} == {20}
    assert all((times == 1.0).all() for times in seconds[16].values())
    assert ("skiprec/end" in seconds[1]) == with_policy
