"""From the per-user table and the times to `report.json`: every number of a report is made here."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray

from skiprec.evaluation.compute_cost import ComputeCost
from skiprec.evaluation.intervals import UserBootstrap, interval, median_ratio
from skiprec.evaluation.scoring import TOP
from skiprec.evaluation.statements import statements
from skiprec.evaluation.table import column, kept_matrix
from skiprec.evaluation.timing import WARMUP_ROUNDS, Seconds
from skiprec.observability import pictures
from skiprec.ranking import METRIC_CUTS, metric_values

ARMS = (
    "popularity",
    "own_frequent",
    "last_items",
    "full_backbone",
    "all_blocks",
    "skiprec",
    "random",
    "fixed",
    "shuffled",
)
TIMED_ONLY = ("masked", "oracle", "shallow")
RIVALS = ("full_backbone", "all_blocks", "random", "fixed", "shuffled")
SPEEDUPS = ("speedup_flops", "speedup_blocks", "speedup_policy", "speedup_end_to_end")
# What is divided by what: the reference has all blocks and no policy.
RATIOS = {
    "speedup_blocks": ("full/blocks", "blocks"),
    "speedup_policy": ("full/blocks", "policy"),
    "speedup_end_to_end": ("full/end", "end"),
}

Record = dict[str, Any]


@dataclass(frozen=True)
class Measured:
    """What an evaluation found: the table, the seconds by batch size, the cost of a row."""

    table: pa.Table
    seconds: dict[int, Seconds]
    cost: ComputeCost


def make_report(measured: Measured, conditions: Record) -> Record:
    """The contents of `report.json`. `rows` hold the times of the first batch size."""
    has_policy = "keep" in measured.table.column_names
    found, differences = _per_user_numbers(measured.table)
    timing = {batch: _timing_of(seconds) for batch, seconds in measured.seconds.items()}
    batch = next(iter(timing), None)
    rows = [
        _row(measured, name, found.get(name, {}), {} if batch is None else timing[batch])
        for name in (*ARMS, *(TIMED_ONLY if has_policy else ()))
        if name in found or name in TIMED_ONLY
    ]
    report: Record = {
        "rows": rows,
        "differences": differences,
        "policy": _policy(measured, conditions["num_items"]) if has_policy else None,
        "flops": _flops(measured, has_policy),
        "timing": {
            str(size): found | {"users_per_s": _users_per_s(size, measured.seconds[size])}
            for size, found in timing.items()
        },
        "conditions": conditions | {"batch": batch, "warmup_rounds": WARMUP_ROUNDS},
    }
    if has_policy:
        for size, seconds in measured.seconds.items():
            report["timing"][str(size)]["amdahl"] = _amdahl(measured, seconds)
    report["statements"] = statements(report)
    return report


def draw_pictures(measured: Measured, report: Record) -> dict[str, Figure]:
    """The pictures of a report by file name."""
    figures = {"speed_accuracy.png": _speed_picture(report)}
    if report["policy"] is not None:
        keep_RL = kept_matrix(measured.table)
        figures |= {
            "keep_heat_map.png": pictures.keep_heat_map(keep_RL),
            "kept_blocks.png": pictures.kept_blocks_histogram(keep_RL),
            "block_keep_rates.png": pictures.block_keep_rates(keep_RL),
        }
    return figures


def _speed_picture(report: Record) -> Figure:
    """By the clock where it was timed; shuffled costs what skiprec does, and is not timed."""
    by = "speedup_end_to_end" if report["timing"] else "speedup_flops"
    speeds = {row["name"]: row[by] for row in report["rows"]}
    if "shuffled" in speeds:
        speeds["shuffled"] = speeds["skiprec"]
    scored = [row for row in report["rows"] if row["mrr@20"] is not None]
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


def _per_user_numbers(table: pa.Table) -> tuple[dict[str, Record], list[Record]]:
    """Metrics and FLOPs of each arm with intervals, and skiprec minus each rival.

    All from the same resamples of users, so that ratios and differences are paired.
    """
    names = [name for name in ARMS if f"rank_{name}" in table.column_names]
    values: dict[tuple[str, str], NDArray[np.float64]] = {}
    for name in names:
        for metric, value_R in metric_values(_rank_tensor(table, name)).items():
            values[name, metric] = value_R.numpy()
        if f"flops_{name}" in table.column_names:
            values[name, "flops"] = column(table, f"flops_{name}")
    values["full", "flops"] = column(table, "flops_full")
    value_RC = np.stack(list(values.values()), axis=1)
    bootstrap = UserBootstrap(np.asarray(table.column("user").to_numpy(), np.int32))
    mean = dict(zip(values, value_RC.mean(0), strict=True))
    resampled = dict(zip(values, bootstrap.resampled_means(value_RC).T, strict=True))
    found: dict[str, Record] = {name: {} for name in names}
    for name in names:
        for metric in METRIC_CUTS:
            found[name][metric] = float(mean[name, metric])
            found[name][f"{metric}_interval"] = interval(resampled[name, metric])
        if (name, "flops") in values:
            full, arm = ("full", "flops"), (name, "flops")
            found[name]["speedup_flops"] = float(mean[full] / mean[arm])
            found[name]["speedup_flops_interval"] = interval(resampled[full] / resampled[arm])
    differences = []
    for rival in RIVALS if "skiprec" in names else ():
        record: Record = {"of": "skiprec", "minus": rival}
        for metric in METRIC_CUTS:
            a, b = ("skiprec", metric), (rival, metric)
            record[metric] = float(mean[a] - mean[b])
            record[f"{metric}_interval"] = interval(resampled[a] - resampled[b])
        differences.append(record)
    return found, differences


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
    counted = "skiprec" if name in ("masked", "oracle") else name
    if f"blocks_kept_{counted}" not in measured.table.column_names:
        return None
    return float(column(measured.table, f"blocks_kept_{counted}").mean()) / num_blocks


def _timing_of(seconds: Seconds) -> Record:
    """Latencies of each stage, and the speedups of each arm with their intervals."""
    speedups: dict[str, Record] = {}
    for arm in sorted({name.split("/")[0] for name in seconds} - {"full"}):
        speedups[arm] = {}
        for speedup, (reference, what) in RATIOS.items():
            if f"{arm}/{what}" in seconds:
                ratio, bounds = median_ratio(seconds[reference], seconds[f"{arm}/{what}"])
                speedups[arm] |= {speedup: ratio, f"{speedup}_interval": bounds}
    latency = {
        name: {f"p{q}_s": float(np.percentile(times, q)) for q in (50, 95, 99)}
        for name, times in seconds.items()
    }
    return {
        "rounds": len(next(iter(seconds.values()))),
        "speedups": speedups,
        "latency": latency,
    }


def _users_per_s(batch: int, seconds: Seconds) -> dict[str, float]:
    return {
        name.split("/")[0]: batch / float(np.median(times))
        for name, times in seconds.items()
        if name.endswith("/end")
    }


def _amdahl(measured: Measured, seconds: Seconds) -> Record:
    """End to end if a skipped block cost nothing: what is not blocks does not get faster.

    1 / (1 - f + f * keep + p), f the blocks' share of the full time, p the policy's time over it.
    """
    full_s = float(np.median(seconds["full/end"]))
    blocks_share = float(np.median(seconds["full/blocks"])) / full_s
    policy_s = np.median(seconds["skiprec/policy"] - seconds["skiprec/blocks"])
    policy_share = max(0.0, float(policy_s)) / full_s
    keep_frac = _keep_frac(measured, "skiprec")
    assert keep_frac is not None
    predicted = 1 / (1 - blocks_share + blocks_share * keep_frac + policy_share)
    measured_ratio, bounds = median_ratio(seconds["full/end"], seconds["skiprec/end"])
    return {
        "blocks_share_of_full": blocks_share,
        "policy_share_of_full": policy_share,
        "predicted": predicted,
        "limit_if_all_blocks_were_free": 1 / max(1e-9, 1 - blocks_share + policy_share),
        "measured": measured_ratio,
        "measured_interval": bounds,
    }


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
        found |= {
            "skiprec_row": float(column(measured.table, "flops_skiprec").mean()),
            "speedup_blocks": float(block_L.sum() / kept) if kept else None,
            "speedup_policy": float(block_L.sum() / (kept + cost.policy)),
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


def _rank_tensor(table: pa.Table, name: str) -> torch.Tensor:
    return torch.from_numpy(np.array(table.column(f"rank_{name}").to_numpy(), np.int64))
