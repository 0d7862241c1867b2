"""From the per-user table and the times to `report.json`: every number of a report is made here."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from matplotlib.figure import Figure
from numpy.typing import NDArray

from skiprec.evaluation.measure.arms import most_kept
from skiprec.evaluation.measure.compute_cost import ComputeCost
from skiprec.evaluation.measure.frontier import Bracket
from skiprec.evaluation.measure.operating_points import Curve
from skiprec.evaluation.measure.scoring import TOP
from skiprec.evaluation.measure.timing import WARMUP_ROUNDS, Seconds
from skiprec.evaluation.report.statements import statements
from skiprec.evaluation.report.summary import Summary, frontier_at, hull_at
from skiprec.evaluation.report.table import column, kept_matrix
from skiprec.evaluation.report.timing_numbers import amdahl, timing_of
from skiprec.observability import pictures
from skiprec.observability.frontier_picture import Point, draw_frontier
from skiprec.ranking import METRIC_CUTS

ARMS = (
    "popularity",
    "own_frequent",
    "last_items",
    "full_backbone",
    "all_blocks",
    "skiprec",
    "random",
    "fixed",
    "frontier",
    "hull",
    "shuffled",
)
TIMED_ONLY = ("masked", "oracle", "shallow")
# Coins between two fixed sets: not scored but computed, and not timed.
MIXED = ("frontier", "hull")
RIVALS = ("full_backbone", "all_blocks", "random", "fixed", "frontier", "hull", "shuffled")
SPEEDUPS = ("speedup_flops", "speedup_blocks", "speedup_policy", "speedup_end_to_end")

Record = dict[str, Any]


@dataclass(frozen=True)
class Measured:
    """What an evaluation found: the table, the seconds by batch size, the cost of a row.

    Args:
        curve: the settings of the arms "learned_<i>" of the table; None where there are none.
        caution: what a reader must know about this kind of policy (`PolicySection.caution`).
    """

    table: pa.Table
    seconds: dict[int, Seconds]
    cost: ComputeCost
    curve: Curve | None = None
    caution: str | None = None


def make_report(measured: Measured, conditions: Record) -> Record:
    """The contents of `report.json`. `rows` hold the times of the first batch size."""
    has_policy = "keep" in measured.table.column_names
    summary = Summary(measured.table)
    timing = {batch: timing_of(batch, seconds) for batch, seconds in measured.seconds.items()}
    batch = next(iter(timing), None)
    scored = [*summary.names, *(MIXED if has_policy else ())]
    timed_only = TIMED_ONLY if has_policy and timing else ()
    rows = [
        _row(
            measured,
            name,
            summary.arm(name) if name in scored else {},
            {} if batch is None else timing[batch],
        )
        for name in (*ARMS, *timed_only)
        if name in scored or name in timed_only
    ]
    report: Record = {
        "rows": rows,
        "differences": [
            {"of": "skiprec", "minus": rival} | summary.difference("skiprec", rival)
            for rival in RIVALS
            if has_policy
        ],
        "frontier": _frontier(summary, measured) if has_policy else None,
        "policy": _policy(measured, conditions["num_items"]) if has_policy else None,
        "flops": _flops(measured, has_policy),
        "timing": {str(size): found for size, found in timing.items()},
        "conditions": conditions | {"batch": batch, "warmup_rounds": WARMUP_ROUNDS},
    }
    if has_policy:
        keep_frac = float(kept_matrix(measured.table).mean())
        for size, seconds in measured.seconds.items():
            report["timing"][str(size)]["amdahl"] = amdahl(seconds, keep_frac)
    report["statements"] = statements(report, measured.caution)
    return report


def draw_pictures(measured: Measured, report: Record) -> dict[str, Figure]:
    """The pictures of a report by file name."""
    figures = {"speed_accuracy.png": _speed_picture(report)}
    if report["policy"] is not None:
        keep_RL = kept_matrix(measured.table)
        figures |= {
            "frontier.png": _frontier_picture(report),
            "keep_heat_map.png": pictures.keep_heat_map(keep_RL),
            "kept_blocks.png": pictures.kept_blocks_histogram(keep_RL),
            "block_keep_rates.png": pictures.block_keep_rates(keep_RL),
        }
    return figures


def _speed_picture(report: Record) -> Figure:
    """By the clock where it was timed; shuffled costs what skiprec does, and is not timed.

    The frontier and its hull are mixtures, of which no time was taken; they have their picture.
    """
    by = "speedup_end_to_end" if report["timing"] else "speedup_flops"
    speeds = {row["name"]: row[by] for row in report["rows"]}
    if "shuffled" in speeds:
        speeds["shuffled"] = speeds["skiprec"]
    scored = [
        row for row in report["rows"] if row["mrr@20"] is not None and row["name"] not in MIXED
    ]
    points = {
        row["name"]: (speeds[row["name"]], row["mrr@20"], row["mrr@20_interval"])
        for row in scored
        if speeds[row["name"]] is not None
    }
    lines = {row["name"]: row["mrr@20"] for row in scored if row["name"] not in points}
    label = (
        f"speedup end to end at batch {report['conditions']['batch']}"
        if report["timing"]
        else "speedup in FLOPs, end to end"
    )
    return pictures.speed_against_accuracy(points, lines, label)


def _frontier_picture(report: Record) -> Figure:
    def point(record: Record) -> Point:
        return record["kept_blocks"], record["mrr@20"], record["mrr@20_interval"]

    def gap(record: Record) -> Point:
        return point(record["minus_frontier"] | {"kept_blocks": record["kept_blocks"]})

    frontier = report["frontier"]
    rows = {row["name"]: row for row in report["rows"]}
    num_blocks = len(report["policy"]["keep_rate_of_block"])
    return draw_frontier(
        [point(record) for record in frontier["sets"]],
        frontier["hull"],
        [(point(record), gap(record)) for record in frontier["learned"]],
        (point(frontier["served"]), gap(frontier["served"])),
        {
            name: (num_blocks * rows[name]["keep_frac"], rows[name]["mrr@20"])
            for name in ("full_backbone", "random", "shuffled")
        },
        "Accuracy against depth",
    )


def _frontier(summary: Summary, measured: Measured) -> Record:
    """The fixed sets, and what the policy gains on them where it stands and elsewhere."""
    keep_RL = kept_matrix(measured.table)
    sets = [
        {
            "name": summary.frontier[size],
            "kept_blocks": size,
            "blocks": np.flatnonzero(most_kept(keep_RL, size)[0]).tolist(),
            **summary.arm(summary.frontier[size]),
        }
        for size in sorted(summary.frontier)
    ]
    curve = measured.curve
    return {
        "sets": sets,
        "hull": summary.hull,
        "served": _against_frontier(summary, "skiprec"),
        "knob": None if curve is None else {"name": curve.knob, "served": curve.served},
        "learned": [
            {"setting": setting, **_against_frontier(summary, name)}
            for setting, name in zip(curve.settings if curve else (), summary.curve, strict=True)
        ],
    }


def _against_frontier(summary: Summary, name: str) -> Record:
    frontier, hull = frontier_at(name), hull_at(name)
    return {
        "name": name,
        "kept_blocks": summary.kept[name],
        "frontier_between": _sizes(summary.brackets[frontier]),
        "hull_between": _sizes(summary.brackets[hull]),
        **summary.arm(name),
        "minus_frontier": summary.difference(name, frontier),
        "minus_hull": summary.difference(name, hull),
    }


def _sizes(at: Bracket) -> list[int]:
    return [at.below, at.above]


def _row(measured: Measured, name: str, found: Record, timing: Record) -> Record:
    row: Record = {"name": name, "keep_frac": _keep_frac(measured, name)}
    for number in (*METRIC_CUTS, *SPEEDUPS):
        row |= {number: None, f"{number}_interval": None}
    row |= found
    if name in ("full_backbone", "all_blocks"):
        # The reference of the ratios: the same shape, all blocks, no policy.
        return row | {s: 1.0 for s in SPEEDUPS if s != "speedup_policy"}
    times: Record = timing.get("speedups", {}).get(name, {})
    return row | times


def _keep_frac(measured: Measured, name: str) -> float | None:
    num_blocks = len(measured.cost.block_L)
    if name in ("full_backbone", "all_blocks"):
        return 1.0
    if name == "shallow":
        kept = column(measured.table, "blocks_kept_skiprec").mean()
        return round(float(kept)) / num_blocks
    counted = "skiprec" if name in ("masked", "oracle", *MIXED) else name
    if f"blocks_kept_{counted}" not in measured.table.column_names:
        return None
    return float(column(measured.table, f"blocks_kept_{counted}").mean()) / num_blocks


def _flops(measured: Measured, has_policy: bool) -> Record:
    """FLOPs of one row by part, and the three speedups by arithmetic."""
    cost = measured.cost
    block_L = np.asarray(cost.block_L, np.float64)
    found: Record = {
        "embedding": cost.embedding,
        "policy": cost.policy,
        "blocks": list(cost.block_L),
        "head": cost.head,
        "full_row": cost.full,
    }
    if has_policy:
        kept = float(kept_matrix(measured.table).mean(0) @ block_L)
        with_policy = kept + cost.policy  # a fixed set of no blocks costs nothing at all
        found |= {
            "skiprec_row": float(column(measured.table, "flops_skiprec").mean()),
            "speedup_blocks": float(block_L.sum() / kept) if kept else None,
            "speedup_policy": float(block_L.sum() / with_policy) if with_policy else None,
            "speedup_end_to_end": cost.full / float(column(measured.table, "flops_skiprec").mean()),
        }
    return found


def _policy(measured: Measured, num_items: int) -> Record:
    """Whether the decisions are personal, and what follows them."""
    table = measured.table
    keep_RL = kept_matrix(table)
    kept_R, rate_L = keep_RL.sum(1), keep_RL.mean(0)
    total = float(keep_RL.var())
    shared_R = column(table, f"top{TOP}_shared")
    found: Record = {
        "distinct_decisions": len(np.unique(keep_RL, axis=0)),
        # Of the variance of single decisions, what is not explained by which block it is.
        "between_user_share": float((rate_L * (1 - rate_L)).mean() / total) if total else 0.0,
        "keep_rate_of_block": rate_L.tolist(),
        "num_fixed_blocks": int(column(table, "blocks_kept_fixed")[0]),
        "kept_blocks_mean": float(kept_R.mean()),
        "kept_blocks_std": float(kept_R.std()),
        "kept_blocks_histogram": np.bincount(kept_R, minlength=keep_RL.shape[1] + 1).tolist(),
        "kept_length_correlation": correlation(kept_R, column(table, "history_length")),
        "top20_equal_share": float((shared_R == min(TOP, num_items)).mean()),
        "top20_shared_mean": float(shared_R.mean()),
    }
    if "time_skiprec_s" in table.column_names:
        time_R = column(table, "time_skiprec_s")
        timed_R = np.isfinite(time_R)
        found["kept_time_correlation"] = correlation(kept_R[timed_R], time_R[timed_R])
        found["timed_rows"] = int(timed_R.sum())
    return found


def correlation(a_R: NDArray[Any], b_R: NDArray[Any]) -> float | None:
    """Pearson's; None where one of them does not vary."""
    if len(a_R) < 2 or a_R.std() == 0 or b_R.std() == 0:
        return None
    return float(np.corrcoef(a_R, b_R)[0, 1])
