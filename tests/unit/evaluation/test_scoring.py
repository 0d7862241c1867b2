"""The accuracy pass against one row at a time, masked, with the whole catalogue sorted."""

import numpy as np
import pytest
import torch

from skiprec.evaluation.measure import scoring
from skiprec.evaluation.measure.arms import ALL_BLOCKS, Arm, arms_of, stack_arms
from skiprec.evaluation.measure.scoring import (
    decide_unit,
    differing_decisions,
    score_arms,
    score_full,
)
from skiprec.network import SkipRecNetwork
from skiprec.types import Batch, History, KeepDecision
from tests.testkit.networks import (
    NUM_BLOCKS,
    NUM_ITEMS,
    build_network,
    model_config,
    policy_config,
)
from tests.testkit.tiles import NUM_REAL, make_tiles, real_rows


@torch.no_grad()
def sorted_catalogue(
    network: SkipRecNetwork, items_W: torch.Tensor, keep_L: np.ndarray | None, exclude_seen: bool
) -> list[int]:
    history = network.embed(items_W[None, :-1], torch.zeros(1, dtype=torch.int64))
    if keep_L is None:
        x_TBD = network.encode(history, None, "dense")
    else:
        decision = KeepDecision(torch.from_numpy(keep_L[None].astype(np.float32)), None)
        x_TBD = network.encode(history, decision, "masked")
    scores_V = network.head(x_TBD[-1], lambda x, scores: x @ scores.weight_VD.t() + scores.bias_V)[
        0
    ]
    order = (scores_V.argsort(descending=True, stable=True) + 1).tolist()
    hidden = set(items_W[:-1].tolist()) - {int(items_W[-1])} if exclude_seen else set()
    return [item for item in order if item not in hidden]


@pytest.mark.parametrize("exclude_seen", [False, True])
def test_every_arm_ranks_as_its_rows_alone_would(exclude_seen: bool) -> None:
    network = build_network(model_config("nextitnet_plus"), policy_config("gumbel")).eval()
    tiles = make_tiles()
    keep_RL = decide_unit(network, tiles).keep_RL
    assert 0.1 < keep_RL.mean() < 0.9
    assert len(np.unique(keep_RL, axis=0)) > 1, "else all arms would be alike"
    arms = arms_of(keep_RL, np.arange(len(keep_RL)))
    sets = [Arm("fixed", size) for size in range(NUM_BLOCKS)]
    assert [arm for arm in arms if arm.is_fixed_set and arm != ALL_BLOCKS] == sets
    keep_ARL = stack_arms(arms, len(keep_RL))
    found = score_arms(network, tiles, arms, exclude_seen)
    full = score_full(network, tiles, exclude_seen)["rank_full_backbone"]
    for row, items_W in enumerate(real_rows(tiles)):
        target = int(items_W[-1])
        for index, arm in enumerate(arms):
            order = sorted_catalogue(network, items_W, keep_ARL[index, row], exclude_seen)
            assert found[f"rank_{arm.name}"][row] == order.index(target) + 1
        order = sorted_catalogue(network, items_W, None, exclude_seen)
        assert full[row] == order.index(target) + 1
    assert (found["rank_skiprec"] != found["rank_random"]).any()
    assert (found["rank_skiprec"] != found["rank_shuffled"]).any()


def test_shared_top_counts_what_both_lists_have() -> None:
    network = build_network(model_config("nextitnet"), policy_config("gumbel")).eval()
    tiles = make_tiles()
    keep_RL = decide_unit(network, tiles).keep_RL
    arms = arms_of(keep_RL, np.arange(len(keep_RL)))
    shared_R = score_arms(network, tiles, arms, False)["top20_shared"]
    for row, items_W in enumerate(real_rows(tiles)):
        skipping = sorted_catalogue(network, items_W, keep_RL[row], False)[:20]
        full = sorted_catalogue(network, items_W, None, False)[:20]
        assert shared_R[row] == len(set(skipping) & set(full))
    assert 20 <= NUM_ITEMS
    assert shared_R.min() < 20
    everything = {name: np.ones_like(keep) for name, keep in arms.items()}
    assert (score_arms(network, tiles, everything, False)["top20_shared"] == 20).all()


def test_decisions_are_those_of_serving() -> None:
    network = build_network(model_config("nextitnet"), policy_config("gumbel")).eval()
    tiles = make_tiles()
    keep_RL = decide_unit(network, tiles).keep_RL
    batch = Batch(real_rows(tiles), torch.cat([t.batch.key_B[: t.num_real] for t in tiles]))
    decision = network.decide(network.embed_batch(batch))
    assert decision is not None
    assert np.array_equal(keep_RL, decision.keep_BL.detach().numpy() != 0)


@pytest.mark.parametrize("policy", ["gumbel", "cost", "fixed"])
def test_what_a_knob_turns_comes_with_the_decisions(policy: str) -> None:
    network = build_network(model_config("nextitnet"), policy_config(policy)).eval()
    tiles = make_tiles()
    decided = decide_unit(network, tiles)
    if policy == "fixed":
        assert decided.numbers_RK is None
        return
    assert decided.numbers_RK is not None
    batch = Batch(real_rows(tiles), torch.cat([t.batch.key_B[: t.num_real] for t in tiles]))
    decision = network.decide(network.embed_batch(batch))
    assert decision is not None
    expected = decision.prob_BL if policy == "gumbel" else decision.cost_BM
    assert expected is not None
    np.testing.assert_allclose(decided.numbers_RK, expected.detach(), rtol=1e-4, atol=1e-5)


def test_a_decision_about_a_row_is_run_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many arms make it; and groups of rows change nothing but the memory."""
    draw = np.random.default_rng(0)
    keep_ABL = draw.random((6, 50, 11)) < 0.5
    keep_ABL[3] = keep_ABL[1]
    keep_NL, row_N, place_AB = differing_decisions(keep_ABL)
    assert np.array_equal(keep_NL[place_AB], keep_ABL)
    assert (row_N[place_AB] == np.arange(50)).all()
    pairs = {(row, *keep) for keep_BL in keep_ABL for row, keep in enumerate(keep_BL.tolist())}
    assert len(keep_NL) == len(pairs) < 6 * 50
    network = build_network(model_config("nextitnet_plus"), policy_config("gumbel")).eval()
    tiles = make_tiles()
    arms = arms_of(decide_unit(network, tiles).keep_RL, np.arange(sum(NUM_REAL)))
    together = score_arms(network, tiles, arms, False)
    calls = []
    encode = network.encode

    def counted(history: History, *rest: object) -> torch.Tensor:
        calls.append(len(history.key_B))
        return encode(history, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(scoring, "ROWS_AT_ONCE", 7)
    monkeypatch.setattr(network, "encode", counted)
    in_sevens = score_arms(network, tiles, arms, False)
    assert max(calls) == 7
    assert sum(calls) < len(arms) * sum(NUM_REAL)
    for name, ranks in together.items():
        assert np.array_equal(ranks, in_sevens[name]), name
