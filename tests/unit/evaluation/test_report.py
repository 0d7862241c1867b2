"""The numbers of a report from a table small enough to add up by hand, and what it says of them."""

import json
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

from skiprec.evaluation.measure import intervals
from skiprec.evaluation.measure.arms import Arm, arms_of
from skiprec.evaluation.measure.compute_cost import ComputeCost
from skiprec.evaluation.measure.intervals import SEED
from skiprec.evaluation.measure.operating_points import Curve
from skiprec.evaluation.measure.timing import Times
from skiprec.evaluation.report.by_length import accuracy_by_length
from skiprec.evaluation.report.make import Measured, correlation, make_report
from skiprec.evaluation.report.pictures import draw_pictures
from skiprec.evaluation.report.statements import statements
from skiprec.evaluation.report.table import column, kept_matrix, per_user_table
from skiprec.evaluation.report.text import report_markdown, terminal_table
from skiprec.evaluation.report.timing_numbers import timing_of
from skiprec.policy.kinds import policy_section
from skiprec.ranking import metric_values

COST = ComputeCost(embedding=10, policy=50, block_L=(100, 100, 100, 100), head=200)
CONDITIONS = {"name": "tiny", "num_items": 500, "exclude_seen": False}
NUM_ROWS = 60


def ranks_around(middle: float, seed: int) -> np.ndarray:
    draw = np.random.default_rng(seed)
    return (1 + draw.geometric(1 / middle, NUM_ROWS)).astype(np.int32)


CURVE = Curve("price", 0.1, (0.3, 0.05))


def make_table(keep_RL: np.ndarray, **given: int | np.ndarray) -> pa.Table:
    """All arms rank alike, but for popularity, which is worse, and those that are given.

    The learned curve has two points: the first block for everyone, and the decisions themselves.
    """
    arms = arms_of(keep_RL, np.arange(NUM_ROWS))
    first_RL = np.zeros_like(keep_RL)
    first_RL[:, 0] = True
    arms |= {Arm("learned", 0): first_RL, Arm("learned", 1): keep_RL}
    ranks = {arm.name: ranks_around(4, seed=1) for arm in arms}
    for name, rank in given.items():
        ranks[name] = np.broadcast_to(np.int32(rank), NUM_ROWS)
    part = {
        "user": (np.arange(NUM_ROWS) // 2).astype(np.int32),
        "row": np.arange(NUM_ROWS),
        "target": np.ones(NUM_ROWS, np.int32),
        "history_length": np.arange(NUM_ROWS, dtype=np.int32),
        "history_items": np.arange(NUM_ROWS, dtype=np.int32),
        "rank_popularity": ranks_around(300, seed=2),
        "top20_shared": np.where(np.arange(NUM_ROWS) < 15, 20, 10).astype(np.int32),
        **{f"rank_{name}": rank_R for name, rank_R in ranks.items()},
    }
    cut = 25
    parts = [
        {name: column[:cut] for name, column in part.items()},
        {name: column[cut:] for name, column in part.items()},
    ]
    timed_R = np.array([0, 30, 59])
    times = {"full/end": np.array([4.0] * 6), "skiprec/end": np.array([1.0, 2, 3, 3, 4, 5])}
    return per_user_table(parts, arms, COST, timed_R, times)


def seconds(**stages: float) -> dict[str, np.ndarray]:
    load_N = np.linspace(1, 3, 20)
    return {name.replace("__", "/"): load_N * s for name, s in stages.items()}


COLD = {
    1: seconds(
        full__blocks=8, full__end=10, skiprec__blocks=4, skiprec__policy=5, skiprec__end=7,
        masked__blocks=9, oracle__end=6, random__blocks=4, random__end=6, fixed__blocks=4,
        fixed__end=6, shallow__blocks=3, shallow__end=5,
    ),
    64: seconds(
        full__blocks=8, full__end=16, skiprec__blocks=4, skiprec__policy=4, skiprec__end=12,
        masked__blocks=8,
    ),
}  # fmt: skip
# A stage that ran just before is faster, a skipping one by more.
WARM = {
    batch: {name: t * (0.5 if "skiprec" in name else 0.8) for name, t in stages.items()}
    for batch, stages in COLD.items()
}
TIMES = {batch: Times(COLD[batch], WARM[batch]) for batch in COLD}


def varied_decisions() -> np.ndarray:
    keep_RL = np.zeros((NUM_ROWS, 4), bool)
    keep_RL[:, 0] = True
    keep_RL[NUM_ROWS // 2 :, 1:3] = True  # 1 block, or 3 where the history is long
    return keep_RL


def report_of(keep_RL: np.ndarray, **changes: Any) -> dict[str, Any]:
    table = make_table(keep_RL, **changes)
    return make_report(Measured(table, TIMES, COST, CURVE), dict(CONDITIONS))


def row(report: dict[str, Any], name: str) -> dict[str, Any]:
    return next(r for r in report["rows"] if r["name"] == name)


def test_rows_have_every_number_or_null() -> None:
    report = report_of(varied_decisions())
    json.dumps(report, allow_nan=False)
    numbers = {"mrr@5", "mrr@20", "hr@5", "hr@20", "hr@10", "ndcg@10"} | {
        f"speedup_{what}" for what in ("flops", "blocks", "policy", "end_to_end")
    }
    for r in report["rows"]:
        assert r.keys() == {"name", "keep_frac"} | numbers | {f"{n}_interval" for n in numbers}
    names = [r["name"] for r in report["rows"]]
    assert names[-3:] == ["masked", "oracle", "shallow"]
    assert row(report, "popularity")["speedup_blocks"] is None
    assert row(report, "masked")["mrr@20"] is None


def test_accuracy_is_the_mean_over_rows() -> None:
    report = report_of(varied_decisions(), skiprec=4)
    skiprec = row(report, "skiprec")
    assert skiprec["mrr@5"] == pytest.approx(0.25)
    assert skiprec["hr@20"] == 1.0
    assert skiprec["mrr@20_interval"] == pytest.approx([0.25, 0.25])
    fixed = row(report, "fixed")
    low, high = fixed["mrr@20_interval"]
    assert low < fixed["mrr@20"] < high
    difference = next(d for d in report["differences"] if d["minus"] == "fixed")
    assert difference["mrr@20"] == pytest.approx(0.25 - fixed["mrr@20"])


def test_speedups_are_those_of_the_first_batch_and_of_arithmetic() -> None:
    report = report_of(varied_decisions())
    skiprec = row(report, "skiprec")
    assert skiprec["speedup_blocks"] == pytest.approx(2.0)
    assert skiprec["speedup_policy"] == pytest.approx(8 / 5)
    assert skiprec["speedup_end_to_end"] == pytest.approx(10 / 7)
    assert skiprec["keep_frac"] == 0.5
    assert skiprec["speedup_flops"] == pytest.approx(610 / (210 + 200 + 50))
    # Without a policy network nothing is paid for it.
    assert row(report, "fixed")["speedup_flops"] == pytest.approx(610 / 410)
    assert row(report, "fixed")["speedup_policy"] is None
    assert row(report, "masked")["speedup_blocks"] == pytest.approx(8 / 9)
    assert row(report, "full_backbone")["speedup_end_to_end"] == 1.0
    amdahl = report["timing"]["1"]["amdahl"]
    assert amdahl["predicted"] == pytest.approx(1 / (1 - 0.8 + 0.8 * 0.5 + 0.1))
    assert amdahl["measured"] == pytest.approx(10 / 7)
    assert report["timing"]["64"]["speedups"]["skiprec"]["speedup_end_to_end"] == pytest.approx(
        4 / 3
    )
    assert report["timing"]["64"]["users_per_s"]["full"] == pytest.approx(64 / 32)


def test_what_follows_the_decisions() -> None:
    policy = report_of(varied_decisions())["policy"]
    assert policy["distinct_decisions"] == 2
    assert policy["keep_rate_of_block"] == [1, 0.5, 0.5, 0]
    # Variance of all decisions 1/4; within a block 0, 1/4, 1/4, 0.
    assert policy["between_user_share"] == pytest.approx(0.5)
    assert policy["kept_blocks_histogram"] == [0, 30, 0, 30, 0]
    assert policy["kept_length_correlation"] > 0.8
    assert policy["top20_equal_share"] == 0.25
    # Rounds 0 and 3 are of row 0, which keeps 1 block: median 2; then 3 and 4 of rows with 3.
    assert policy["timed_rows"] == 3
    assert policy["kept_time_correlation"] == pytest.approx(
        correlation(np.array([1, 3, 3]), np.array([2.0, 3.0, 4.0]))
    )


def test_one_decision_for_everyone_is_said_to_be_not_personal() -> None:
    same = np.zeros((NUM_ROWS, 4), bool)
    same[:, :2] = True
    report = report_of(same, skiprec=1)
    assert report["policy"]["distinct_decisions"] == 1
    assert report["policy"]["between_user_share"] == 0
    assert report["policy"]["kept_length_correlation"] is None
    assert any("NOT shown: the policy makes one decision" in text for text in report["statements"])
    assert any("WARNING: the policy has collapsed: 1 " in text for text in report["statements"])


@pytest.mark.parametrize(("changes", "said"), [
    ({}, "does not beat shuffled or frontier"),
    ({"skiprec": 1}, "The per-user part is shown"),
    ({"skiprec": 400, "popularity": 1}, "LOSES to a baseline"),
    ({"skiprec": 400}, "skipping loses"),
    ({"skiprec": 9, "popularity": 9}, "ties with the best baseline"),
    # Unequal, but not beyond chance.
    ({"skiprec": ranks_around(9, 3), "popularity": ranks_around(9, 4)}, "ties with the best"),
])  # fmt: skip
def test_wins_ties_and_losses_are_said(changes: dict[str, Any], said: str) -> None:
    assert any(said in text for text in report_of(varied_decisions(), **changes)["statements"])


@pytest.mark.parametrize(
    ("first", "rivals"),
    [
        (["shuffled"], "shuffled"),
        (["fixed_02"], "frontier or hull"),
        (["fixed_01", "fixed_03"], "hull"),
    ],
)
def test_the_claim_needs_every_control_and_names_what_fails(first: list[str], rivals: str) -> None:
    """Better than every control but some, with which it ties: the mean is 2 blocks."""
    found = report_of(varied_decisions(), skiprec=1, **dict.fromkeys(first, 1))
    (claim,) = [text for text in found["statements"] if "per-user part" in text]
    assert "NOT shown" in claim
    assert f"does not beat {rivals} (" in claim
    for rival in rivals.split(" or "):
        assert f"minus {rival} +0.0000" in claim


def test_a_policy_that_learned_where_it_had_read_the_targets_is_warned_of() -> None:
    report = report_of(varied_decisions())
    for policy, is_warned in (
        (policy_section("gumbel"), True),
        (policy_section("gumbel", learn_from="last_position"), False),
        (policy_section("cost", nest_sizes=(1,)), False),
    ):
        texts = statements(report, policy.caution)
        assert any("CAUTION: in training" in text for text in texts) == is_warned


def test_requests_that_differ_much_are_told_in_total() -> None:
    """Of three requests two are served in a tenth of the time, and one in all of it."""
    full, served = np.array([10.0, 10.0, 10.0]), np.array([1.0, 1.0, 10.0])
    found = timing_of(1, {"full/end": full, "skiprec/end": served})
    assert found["speedups"]["skiprec"]["speedup_end_to_end"] == 10.0
    assert found["in_total"]["skiprec"] == {"speedup_end_to_end": 2.5}
    assert found["users_per_s"] == {"full": 0.1, "skiprec": 0.25}
    report = report_of(varied_decisions())
    assert not any("added up" in text for text in statements(report, None))
    report["timing"]["1"] |= found
    (told,) = [text for text in statements(report, None) if "added up" in text]
    assert "10.00x at batch 1" in told
    assert "2.50x" in told


@pytest.mark.parametrize(("share", "is_collapsed"), [(0.0099, True), (0.0101, False)])
def test_hardly_any_variance_between_users_is_a_collapse(share: float, is_collapsed: bool) -> None:
    report = report_of(varied_decisions())
    assert not any("collapsed" in text for text in report["statements"])
    report["policy"]["between_user_share"] = share
    warned = [
        text for text in statements(report, None) if "WARNING: the policy has collapsed" in text
    ]
    assert bool(warned) == is_collapsed


def test_the_frontier_lies_between_the_two_sets_around_the_mean(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Against the definition, row by row, and resample by resample, with the drawn users' rows."""
    monkeypatch.setattr(intervals, "RESAMPLES", 40)
    keep_RL = np.arange(4) < np.array([1, 2, 4] * 20)[:, None]  # 7/3 on average
    ranks = {
        name: ranks_around(6, seed)
        for seed, name in enumerate(["skiprec", "learned_00", "fixed_02", "fixed_03", "fixed_01"])
    }
    table = make_table(keep_RL, **ranks)
    report = make_report(Measured(table, TIMES, COST, CURVE), dict(CONDITIONS))
    weight = 7 / 3 - 2

    def value(name: str) -> np.ndarray:
        rank_R = column(table, f"rank_{name}")
        return np.where(rank_R <= 20, 1 / rank_R, 0)

    frontier_R = (1 - weight) * value("fixed_02") + weight * value("fixed_03")
    difference = next(d for d in report["differences"] if d["minus"] == "frontier")
    assert difference["mrr@20"] == pytest.approx((value("skiprec") - frontier_R).mean())
    draw = np.random.default_rng(SEED)
    resampled = [
        np.mean([(value("skiprec") - frontier_R)[2 * user : 2 * user + 2] for user in users])
        for users in draw.integers(0, NUM_ROWS // 2, (40, NUM_ROWS // 2))
    ]
    expected = np.quantile(resampled, (0.025, 0.975)).tolist()
    assert difference["mrr@20_interval"] == pytest.approx(expected)
    found = report["frontier"]
    assert found["served"]["frontier_between"] == [2, 3]
    assert found["served"]["minus_frontier"]["mrr@20"] == difference["mrr@20"]
    assert row(report, "frontier")["mrr@20"] == pytest.approx(frontier_R.mean())
    assert row(report, "frontier")["keep_frac"] == row(report, "skiprec")["keep_frac"]
    # No policy is paid for: 10 + 200 and 7/3 blocks of 100.
    assert row(report, "frontier")["speedup_flops"] == pytest.approx(610 / (210 + 700 / 3))
    # The first point of the curve keeps block 0 alone, as the set of one block does.
    first, second = found["learned"]
    assert (first["setting"], first["frontier_between"], first["kept_blocks"]) == (0.3, [1, 1], 1)
    assert first["minus_frontier"]["mrr@20"] == pytest.approx(
        (value("learned_00") - value("fixed_01")).mean()
    )
    assert (second["setting"], second["frontier_between"]) == (0.05, [2, 3])
    assert found["knob"] == {"name": "price", "served": 0.1}
    # The hull: no coin between two sets, of this mean, reaches more on these rows.
    size_of = {0: "fixed_00", 1: "fixed_01", 2: "fixed_02", 3: "fixed_03", 4: "all_blocks"}
    mean_of = {size: value(name).mean() for size, name in size_of.items()}
    coins = [
        ((high - 7 / 3) * mean_of[low] + (7 / 3 - low) * mean_of[high]) / (high - low)
        for low in (0, 1, 2)
        for high in (3, 4)
    ]
    assert row(report, "hull")["mrr@20"] == pytest.approx(max(coins))
    assert max(coins) > frontier_R.mean() + 0.001, "else the frontier would do"


def test_the_frontier_names_its_sets() -> None:
    keep_RL = varied_decisions()[:, ::-1]  # block 3 by all, 2 and 1 by half, 0 by none
    sets = report_of(keep_RL)["frontier"]["sets"]
    assert [s["blocks"] for s in sets] == [[], [3], [1, 3], [1, 2, 3], [0, 1, 2, 3]]
    assert [s["kept_blocks"] for s in sets] == [0, 1, 2, 3, 4]
    assert [s["name"] for s in sets][3:] == ["fixed_03", "all_blocks"]


def test_without_times_the_report_says_so() -> None:
    measured = Measured(make_table(varied_decisions()), {}, COST, CURVE)
    report = make_report(measured, dict(CONDITIONS))
    assert report["timing"] == {}
    assert "masked" not in [r["name"] for r in report["rows"]]
    assert row(report, "skiprec")["speedup_end_to_end"] is None
    assert row(report, "skiprec")["speedup_flops"] is not None
    text = report_markdown(report, list(draw_pictures(measured, report)))
    assert "Times were not taken" in text
    assert "## Times" not in text


def test_masked_that_is_faster_than_full_is_a_warning() -> None:
    assert not any("WARNING" in text for text in report_of(varied_decisions())["statements"])
    cold = COLD[1] | {"masked/blocks": COLD[1]["full/blocks"] / 1.2}
    disturbed = {1: Times(cold, cold)}
    table = make_table(varied_decisions())
    report = make_report(Measured(table, disturbed, COST, CURVE), dict(CONDITIONS))
    assert any("masked execution" in text for text in report["statements"])


def test_a_network_without_a_policy_has_the_full_backbone_alone() -> None:
    part = {
        "user": np.arange(NUM_ROWS, dtype=np.int32),
        "row": np.arange(NUM_ROWS),
        "rank_popularity": ranks_around(300, seed=2),
        "rank_full_backbone": ranks_around(4, seed=1),
    }
    table = per_user_table([part], None, COST, np.array([0]), None)
    cold = {name: t for name, t in COLD[1].items() if name.startswith("full/")}
    times = {1: Times(cold, cold)}
    measured = Measured(table, times, COST)
    report = make_report(measured, dict(CONDITIONS))
    assert [r["name"] for r in report["rows"]] == ["popularity", "full_backbone"]
    assert report["policy"] is None
    assert "full_backbone" in report_markdown(report, [])
    assert list(draw_pictures(measured, report)) == ["speed_accuracy.png"]


def test_texts_and_pictures_show_the_rows() -> None:
    measured = Measured(make_table(varied_decisions()), TIMES, COST, CURVE)
    report = make_report(measured, dict(CONDITIONS))
    figures = draw_pictures(measured, report)
    assert list(figures)[:2] == ["speed_accuracy.png", "frontier.png"]
    assert len(figures) == 5
    text = report_markdown(report, list(figures))
    for r in report["rows"]:
        assert f"| {r['name']} |" in text
        assert r["name"] in terminal_table(report)
    assert "### Batch 64" in text
    assert "Amdahl" in text
    for statement in report["statements"]:
        assert statement in text


def test_accuracy_by_length_covers_every_history_once() -> None:
    keep_RL = varied_decisions()
    table = make_table(keep_RL)
    lines = accuracy_by_length(table)
    ranges = [(line["from"], line["to"]) for line in lines]
    assert ranges == [(1, 4), (5, 9), (10, 19), (20, 49), (50, 99)]
    assert sum(line["rows"] for line in lines) == NUM_ROWS - 1  # one row has no history at all
    of_line = slice(20, 50)
    rank_R = torch.from_numpy(np.array(table.column("rank_skiprec").to_numpy()[of_line], np.int64))
    found = lines[3]["accuracy"]["skiprec"]
    assert found["mrr@20"] == pytest.approx(float(metric_values(rank_R)["mrr@20"].mean()))
    low, high = found["mrr@20_interval"]
    assert low < found["mrr@20"] < high
    assert lines[3]["kept_blocks"] == pytest.approx(keep_RL.sum(1)[of_line].mean())
    assert lines[0]["kept_blocks"] < lines[-1]["kept_blocks"]  # long histories keep more here
    text = report_markdown(report_of(keep_RL), [])
    assert "| 50-99 | 10 |" in text
    assert accuracy_by_length(table.drop_columns(["history_items"])) == []  # an earlier table


def test_decisions_survive_the_table() -> None:
    keep_RL = varied_decisions()
    table = make_table(keep_RL)
    assert np.array_equal(kept_matrix(table), keep_RL)
    assert table.column("flops_skiprec").to_pylist()[0] == 210 + 50 + 100
    assert table.column("time_skiprec_s").to_pylist()[0] == 2.0
    assert table.column("time_skiprec_s").null_count == NUM_ROWS - 3
