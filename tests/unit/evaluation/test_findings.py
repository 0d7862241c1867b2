"""The sentences at the end of the quickstart, from numbers by hand."""

from typing import Any

import pytest

from skiprec.evaluation.report.findings import advice, depth_verdict, knob_table


def row(name: str, mrr: float, keep: float, speed: float | None = 1.0) -> dict[str, Any]:
    return {"name": name, "mrr@20": mrr, "keep_frac": keep, "speedup_end_to_end": speed}


def report(rows: list[dict[str, Any]], num_blocks: int, above: int = 0, below: int = 0) -> Any:
    intervals = [(0.001, 0.002)] * above + [(-0.002, -0.001)] * below
    intervals += [(-0.001, 0.002)] * (8 - len(intervals))
    points = [{"minus_hull": {"mrr@20": 0.0, "mrr@20_interval": each}} for each in intervals]
    return {
        "rows": [row("popularity", 0.01, 0.0, None), *rows],
        "conditions": {"num_blocks": num_blocks},
        "frontier": {"learned": points},
    }


def alone(mrr: float, num_blocks: int) -> Any:
    return report([row("full_backbone", mrr, 1.0)], num_blocks)


def difference(mean: float, low: float, high: float) -> Any:
    return {"mrr@20": mean, "mrr@20_interval": (low, high)}


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [
        (0.0031, 0.0090, "Depth PAYS"),
        (0.0030, 0.0090, "NOT DECIDED"),  # it must be above 3 % of .1000, not at it
        (-0.0090, 0.0029, "NOT NEED"),
        (-0.0090, 0.0030, "NOT DECIDED"),
        (-0.0090, -0.0010, "NOT NEED"),
    ],
)
def test_depth_pays_where_its_interval_is_above_three_percent(
    low: float, high: float, verdict: str
) -> None:
    text = depth_verdict(alone(0.1, 2), alone(0.104, 16), difference(0.004, low, high))
    assert verdict in text.split(":")[0]
    assert "2 blocks reach MRR@20 0.1000 and 16 blocks 0.1040 (+0.0040 [" in text
    assert "from 3% on, which is 0.0030" in text


EXITS = [
    row("exit_08", 0.1085, 0.5, 1.98),
    row("exit_02", 0.1080, 0.125, 6.4),
    row("exit_04", 0.1090, 0.25, 3.72),
    row("full_backbone", 0.1100, 1.0),
    row("all_blocks", 0.1100, 1.0),
    row("skiprec", 0.1096, 0.51, 2.07),
]


def test_the_shallowest_exit_within_one_percent_is_named() -> None:
    text = advice(report(EXITS, 16), "Depth PAYS on this data: …")
    assert "exit 4 for everyone is within 1% of the MRR@20 of all blocks (0.1100)" in text
    assert "answers 3.72 times as fast: keep=0.25" in text
    assert "0 of 8 settings" in text
    assert text.endswith("so serve an exit.")


def test_where_no_exit_is_good_enough_it_says_so() -> None:
    deep = [{**one, "mrr@20": 0.2} if one["name"] == "full_backbone" else one for one in EXITS]
    text = advice(report(deep, 16, above=4), "Depth PAYS on this data: …")
    assert text.startswith("No exit for everyone is within 1%")
    assert "at 4 of 8 settings of its price, and below it at 0, so users differ" in text


@pytest.mark.parametrize(("above", "below"), [(3, 0), (5, 1)])
def test_few_points_above_or_some_below_are_no_reason_to_serve_a_policy(
    above: int, below: int
) -> None:
    text = advice(report(EXITS, 16, above, below), "Depth PAYS on this data: …")
    assert f"at {above} of 8 settings of its price, and below it at {below}, so serve" in text


def test_without_depth_a_policy_that_gains_nothing_is_no_surprise() -> None:
    text = advice(report(EXITS, 16), "This data does NOT NEED depth: …")
    assert text.endswith("as expected where depth is worth nothing.")


def test_the_knob_goes_from_the_first_exit_to_all_blocks() -> None:
    lines = knob_table(report(EXITS, 16))
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines[2:]]
    assert cells == [
        ["exit 2", "0.125", "2.0", "0.1080", "6.40x"],
        ["exit 4", "0.25", "4.0", "0.1090", "3.72x"],
        ["exit 8", "0.5", "8.0", "0.1085", "1.98x"],
        ["depth by user", "0.51", "8.2", "0.1096", "2.07x"],
        ["all blocks", "1", "16.0", "0.1100", "1.00x"],
    ]
