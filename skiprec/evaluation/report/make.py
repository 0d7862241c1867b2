"""From the per-user table and the times to `report.json`: all numbers of a report are made here."""

from dataclasses import asdict, dataclass
from typing import Any, cast

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from skiprec.evaluation.measure.arms import (
    ALL_BLOCKS,
    BASELINES,
    FIXED,
    FULL_BACKBONE,
    MASKED,
    MIXTURES,
    ORACLE,
    REPORTED,
    RIVALS,
    SHALLOW,
    SKIPREC,
    TIMED_ONLY,
    Arm,
    fixed_set,
)
from skiprec.evaluation.measure.compute_cost import ComputeCost
from skiprec.evaluation.measure.frontier import Bracket
from skiprec.evaluation.measure.native_timing import Agreement
from skiprec.evaluation.measure.operating_points import Curve
from skiprec.evaluation.measure.scoring import SHARED_COLUMN, TOP
from skiprec.evaluation.measure.timing import WARMUP_ROUNDS, Times
from skiprec.evaluation.report.by_length import accuracy_by_length
from skiprec.evaluation.report.schema import (
    METRIC,
    METRICS,
    SPEEDUPS,
    Conditions,
    Difference,
    FixedSet,
    Flops,
    Frontier,
    LearnedPoint,
    MeasuredConditions,
    NativeAgreement,
    PolicyNumbers,
    PolicyPoint,
    Report,
    Row,
    Timing,
)
from skiprec.evaluation.report.statements import statements
from skiprec.evaluation.report.summary import Summary, frontier_at, hull_at
from skiprec.evaluation.report.table import column, kept_matrix
from skiprec.evaluation.report.timing_numbers import amdahl, timing_of

# Their rows are the reference of the speedups: the same shape, all blocks, no policy.
REFERENCES = (FULL_BACKBONE, ALL_BLOCKS)


@dataclass(frozen=True)
class Measured:
    """The measurements of an evaluation.

    Args:
        times: by batch size; empty where none were taken.
        cost: FLOPs of one row.
        curve: the settings of the arms of the learned curve; None where the table has none.
        caution: the warning that belongs to the kind of policy (`PolicySection.caution`).
        agreement: of the native executor with PyTorch; None where they were not compared.
    """

    table: pa.Table
    times: dict[int, Times]
    cost: ComputeCost
    curve: Curve | None = None
    caution: str | None = None
    agreement: Agreement | None = None


def make_report(measured: Measured, conditions: MeasuredConditions) -> Report:
    """The contents of `report.json`. `rows` hold the times of the first batch size."""
    has_policy = "keep" in measured.table.column_names
    summary = Summary(measured.table)
    keep_frac = float(kept_matrix(measured.table).mean()) if has_policy else None
    timing = {batch: _timing(batch, times, keep_frac) for batch, times in measured.times.items()}
    batch = next(iter(timing), None)
    all_conditions: Conditions = {
        **conditions,
        "batch": batch,
        "warmup_rounds": WARMUP_ROUNDS,
    }
    exits = [arm for arm in summary.arms if arm.kind == "exit"]
    rivals = (*RIVALS, *exits) if has_policy else ()
    report: Report = {
        "rows": _rows(measured, summary, has_policy, None if batch is None else timing[batch]),
        "differences": [_difference(summary, SKIPREC, rival) for rival in rivals],
        "over_baseline": _over_baseline(summary, SKIPREC if has_policy else FULL_BACKBONE),
        "frontier": _frontier(summary, measured) if has_policy else None,
        "policy": _policy(measured, conditions["num_items"]) if has_policy else None,
        "by_length": accuracy_by_length(measured.table),
        "flops": _flops(measured, has_policy),
        "timing": {str(size): numbers for size, numbers in timing.items()},
        "conditions": all_conditions,
        "statements": [],
    }
    if measured.agreement is not None:
        report["native"] = cast(NativeAgreement, asdict(measured.agreement))
    report["statements"] = statements(report, measured.caution)
    is_exact = "bf16" not in all_conditions.get("executor", "")
    if measured.agreement is not None and is_exact and not measured.agreement.is_close:
        report["statements"].append(
            "WARNING: the native executor and PyTorch differ by more than near ties (see the end "
            "of the times); report this"
        )
    return report


def _timing(batch: int, times: Times, keep_frac: float | None) -> Timing:
    """The numbers of the cold times, and in `warm` those of the warm ones."""
    cold, warm = timing_of(batch, times.cold), timing_of(batch, times.warm)
    if keep_frac is not None:
        cold["amdahl"], warm["amdahl"] = (
            amdahl(times.cold, keep_frac),
            amdahl(times.warm, keep_frac),
        )
    cold["warm"] = warm
    return cold


def _difference(summary: Summary, arm: Arm, rival: Arm) -> Difference:
    return {"of": arm.name, "minus": rival.name, **summary.difference(arm, rival)}


def _over_baseline(summary: Summary, network: Arm) -> Difference:
    """The difference to the best of the baselines without a network."""
    baselines = [arm for arm in BASELINES if arm in summary.arms]
    best = max(baselines, key=lambda arm: summary.mean[arm, METRIC])
    return _difference(summary, network, best)


def _frontier(summary: Summary, measured: Measured) -> Frontier:
    """The fixed sets, and the gain of the policy over them at the served and other settings."""
    keep_RL = kept_matrix(measured.table)
    exits = (0,) if any(arm.kind == "exit" for arm in summary.arms) else None
    sets: list[FixedSet] = [
        {
            "name": arm.name,
            "kept_blocks": size,
            "blocks": np.flatnonzero(fixed_set(keep_RL, size, exits)[0]).tolist(),
            **summary.metrics(arm),
        }
        for size, arm in sorted(summary.set_of_size.items())
    ]
    curve = measured.curve
    learned: list[LearnedPoint] = [
        {"setting": setting, **_policy_point(summary, arm)}
        for setting, arm in zip(curve.settings if curve else (), summary.curve, strict=True)
    ]
    return {
        "sets": sets,
        "hull": summary.hull,
        "served": _policy_point(summary, SKIPREC),
        "knob": None if curve is None else {"name": curve.knob, "served": curve.served},
        "learned": learned,
    }


def _policy_point(summary: Summary, arm: Arm) -> PolicyPoint:
    frontier, hull = frontier_at(arm), hull_at(arm)
    return {
        "name": arm.name,
        "kept_blocks": summary.kept[arm],
        "frontier_between": _sizes(summary.brackets[frontier]),
        "hull_between": _sizes(summary.brackets[hull]),
        **summary.metrics(arm),
        "minus_frontier": summary.difference(arm, frontier),
        "minus_hull": summary.difference(arm, hull),
    }


def _sizes(coin: Bracket) -> list[int]:
    return [coin.below, coin.above]


def _rows(
    measured: Measured, summary: Summary, has_policy: bool, timing: Timing | None
) -> list[Row]:
    scored = [*summary.arms, *(MIXTURES if has_policy else ())]
    timed_only = TIMED_ONLY if has_policy and timing is not None else ()
    exits = [arm for arm in scored if arm.kind == "exit"]
    order = [*BASELINES, *exits, *REPORTED[len(BASELINES) :], *timed_only]
    return [
        _row(measured, arm, summary if arm in scored else None, timing)
        for arm in order
        if arm in scored or arm in timed_only
    ]


def _row(measured: Measured, arm: Arm, summary: Summary | None, timing: Timing | None) -> Row:
    """A row of the report; `summary` is None for an arm that was not scored."""
    row: dict[str, object] = {"name": arm.name, "keep_frac": _keep_frac(measured, arm)}
    for number in (*METRICS, *SPEEDUPS):
        row |= {number: None, f"{number}_interval": None}
    if summary is not None:
        row |= summary.metrics(arm)
    if arm in REFERENCES:
        row |= {speedup: 1.0 for speedup in SPEEDUPS if speedup != "speedup_policy"}
    elif timing is not None:
        row |= timing["speedups"].get(arm.name, {})
    return cast(Row, row)


def _keep_frac(measured: Measured, arm: Arm) -> float | None:
    num_blocks = len(measured.cost.block_L)
    if arm in REFERENCES:
        return 1.0
    if arm == SHALLOW:
        kept = column(measured.table, SKIPREC.blocks_kept_column).mean()
        return round(float(kept)) / num_blocks
    counted = SKIPREC if arm in (MASKED, ORACLE, *MIXTURES) else arm
    if counted.blocks_kept_column not in measured.table.column_names:
        return None
    return float(column(measured.table, counted.blocks_kept_column).mean()) / num_blocks


def _flops(measured: Measured, has_policy: bool) -> Flops:
    """FLOPs of one row by part, and the three speedups by arithmetic."""
    cost = measured.cost
    block_L = np.asarray(cost.block_L, np.float64)
    flops: Flops = {
        "embedding": cost.embedding,
        "policy": cost.policy,
        "blocks": list(cost.block_L),
        "head": cost.head,
        "full_row": cost.full,
    }
    if has_policy:
        kept = float(kept_matrix(measured.table).mean(0) @ block_L)
        with_policy = kept + cost.policy  # 0 for a fixed set of no blocks
        skiprec_row = float(column(measured.table, SKIPREC.flops_column).mean())
        flops["skiprec_row"] = skiprec_row
        flops["speedup_blocks"] = float(block_L.sum() / kept) if kept else None
        flops["speedup_policy"] = float(block_L.sum() / with_policy) if with_policy else None
        flops["speedup_end_to_end"] = cost.full / skiprec_row
    return flops


def _policy(measured: Measured, num_items: int) -> PolicyNumbers:
    """Whether the decisions differ between users, and what correlates with them."""
    table = measured.table
    keep_RL = kept_matrix(table)
    kept_R, rate_L = keep_RL.sum(1), keep_RL.mean(0)
    total = float(keep_RL.var())
    shared_R = column(table, SHARED_COLUMN)
    numbers: PolicyNumbers = {
        "distinct_decisions": len(np.unique(keep_RL, axis=0)),
        # The share of the variance of single decisions that the block does not explain.
        "between_user_share": float((rate_L * (1 - rate_L)).mean() / total) if total else 0.0,
        "keep_rate_of_block": rate_L.tolist(),
        "num_fixed_blocks": int(column(table, FIXED.blocks_kept_column)[0]),
        "kept_blocks_mean": float(kept_R.mean()),
        "kept_blocks_std": float(kept_R.std()),
        "kept_blocks_histogram": np.bincount(kept_R, minlength=keep_RL.shape[1] + 1).tolist(),
        "kept_length_correlation": correlation(kept_R, column(table, "history_length")),
        "top20_equal_share": float((shared_R == min(TOP, num_items)).mean()),
        "top20_shared_mean": float(shared_R.mean()),
    }
    if SKIPREC.time_column in table.column_names:
        time_R = column(table, SKIPREC.time_column)
        timed_R = np.isfinite(time_R)
        numbers["kept_time_correlation"] = correlation(kept_R[timed_R], time_R[timed_R])
        numbers["timed_rows"] = int(timed_R.sum())
    return numbers


def correlation(a_R: NDArray[Any], b_R: NDArray[Any]) -> float | None:
    """Pearson's correlation; None where one of the two does not vary."""
    if len(a_R) < 2 or a_R.std() == 0 or b_R.std() == 0:
        return None
    return float(np.corrcoef(a_R, b_R)[0, 1])
