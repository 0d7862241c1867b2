"""The native executor's stages compute what they claim, and its lists are compared row by row."""

import dataclasses

import numpy as np
import pytest
import torch

from skiprec.evaluation.measure.arms import POLICY_ARMS, SKIPREC, arm_named
from skiprec.evaluation.measure.native_timing import (
    Agreement,
    compare_unit,
    describe_native_executor,
    native_stages,
    why_no_native_executor,
)
from skiprec.evaluation.measure.tiles import Tile
from skiprec.evaluation.measure.timing import TimingSample, arm_stages, time_arms
from skiprec.inference.executor import embed_requests, recommend
from skiprec.inference.native.from_network import NativeNetwork
from skiprec.inference.native.library import bf16_levels, level_of
from skiprec.types import KeepDecision
from tests.testkit.native import native_library
from tests.testkit.networks import (
    NUM_BLOCKS,
    build_network,
    model_config,
    policy_config,
    random_batch,
)
from tests.unit.evaluation.test_timing import PLAN, make_sample


@pytest.fixture(autouse=True, scope="module")
def library() -> None:
    native_library()


@pytest.mark.parametrize("kind", ["gumbel", "cost", "fixed"])
@pytest.mark.parametrize("batch", [1, 4, 16])
def test_stages_compute_what_those_of_pytorch_compute(kind: str, batch: int) -> None:
    network = build_network(model_config("nextitnet_plus"), policy_config(kind)).eval()
    assert why_no_native_executor(network) is None
    sample = make_sample()
    with torch.inference_mode():
        decision = network.decide(embed_requests(network, sample.items_RT))
        assert decision is not None
        sample.keep_ARL[POLICY_ARMS.index(SKIPREC)] = decision.keep_BL
        expected = arm_stages(network, sample, PLAN, batch)
        found = native_stages(network, sample, PLAN, batch)
        assert found.keys() == expected.keys()
        row_B = torch.arange(batch) % len(sample.items_RT)
        for name in found:
            arm, part = name.split("/")
            if part == "end":
                _, scores_BK = expected[name](0)
                answer = found[name](0)
                np.testing.assert_allclose(answer.scores_BK, scores_BK, rtol=1e-3, atol=1e-4)
            elif part == "blocks" and arm in ("skiprec", "random", "fixed"):
                keep_BL = sample.keep_ARL[POLICY_ARMS.index(arm_named(arm)), row_B]
                assert np.array_equal(found[name](0), keep_BL.numpy() > 0)


def test_without_a_policy_there_is_the_full_network_alone() -> None:
    network = build_network(model_config("sasrec_plus")).eval()
    sample = dataclasses.replace(make_sample(), arms=(), keep_ARL=torch.empty(0))
    times = time_arms(network, sample, PLAN, make_stages=native_stages)
    assert times[1].cold.keys() == {"full/blocks", "full/end"}
    assert all((seconds > 0).all() for seconds in times[16].warm.values())


def test_why_a_network_is_timed_in_pytorch() -> None:
    for name, changes, said in (
        ("gru4rec", {}, "gru4rec"),
        ("nextitnet", {"encoder": "gru"}, "policy.encoder"),
    ):
        policy = policy_config("gumbel", **changes) if changes else None
        network = build_network(model_config(name), policy)
        assert said in (why_no_native_executor(network) or "")


@pytest.mark.parametrize("kind", ["none", "gumbel", "reinforce", "cost", "random"])
def test_agreement_counts_lists_and_decisions(kind: str) -> None:
    policy = None if kind == "none" else policy_config(kind)
    network = build_network(model_config("nextitnet_plus", final_norm=True), policy).eval()
    tile = Tile(random_batch(12), num_real=10)
    native = NativeNetwork(network, 9)
    found = compare_unit(network, native, [tile, tile], 5, exclude_seen=True)
    assert (found.rows, found.decisions_differ) == (20, 0)
    assert found.is_close
    assert found.mrr == found.mrr_pytorch
    best_BK, _ = recommend(network, tile.batch.input_BT[:10].contiguous(), 5, True)
    place_N = np.argwhere(best_BK.numpy() == tile.batch.items_BW[:10, -1:].numpy())[:, 1]
    assert found.mrr == pytest.approx((1 / (place_N + 1)).sum() / 10)
    # Control: another network's lists and decisions differ, and are counted.
    other = build_network(model_config("nextitnet_plus", final_norm=True), policy, seed=1).eval()
    wrong = compare_unit(other, native, [tile], 5, exclude_seen=True)
    assert wrong.lists_differ >= 9
    assert wrong.largest_gap > 1e-3
    assert not wrong.is_close
    if kind in ("gumbel", "reinforce"):
        assert wrong.decisions_differ > 0


def test_bf16_is_a_level_that_is_asked_for() -> None:
    network = build_network(model_config("nextitnet_plus"), policy_config("fixed")).eval()
    assert level_of("native") is None
    why = why_no_native_executor(network, "native_bf16")
    if not bf16_levels():
        assert why == "this processor does not multiply in bf16"
        return
    level = level_of("native_bf16")
    assert why is None
    assert describe_native_executor(level) == f"native ({bf16_levels()[0]})"
    sample = make_sample()
    with torch.inference_mode():
        rounded = native_stages(network, sample, PLAN, 4, level)["full/end"](0)
        exact = native_stages(network, sample, PLAN, 4)["full/end"](0)
    assert (rounded.scores_BK != exact.scores_BK).any()
    np.testing.assert_allclose(rounded.scores_BK, exact.scores_BK, rtol=0.05)


def test_agreements_add_up() -> None:
    parts = [Agreement(10, 1, 1e-7, 0, 0.2, 0.5), Agreement(5, 2, 3e-6, 4, 0.5, 0.2)]
    total = sum(parts, Agreement())
    assert dataclasses.astuple(total) == pytest.approx((15, 3, 3e-6, 4, 0.3, 0.4))
    assert not total.is_close


def test_given_decisions_are_those_of_the_sample() -> None:
    network = build_network(model_config("nextitnet"), policy_config("fixed")).eval()
    sample = make_sample()
    with torch.inference_mode():
        answer = native_stages(network, sample, PLAN, 4)["random/end"](1)
        keep_BL = sample.keep_ARL[2, 4:8]
        items_BK, _ = recommend(
            network, sample.items_RT[4:8], PLAN.k, False, lambda *_: KeepDecision(keep_BL, None)
        )
    assert answer.keep_BL.shape == (4, NUM_BLOCKS)
    assert answer.items_BK.tolist() == items_BK.tolist()
    assert isinstance(sample, TimingSample)
