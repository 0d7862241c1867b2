"""Speedups, latencies and Amdahl's prediction, from the seconds of the timed stages."""

from typing import cast

import numpy as np

from skiprec.evaluation.measure.arms import FULL, SKIPREC, Arm
from skiprec.evaluation.measure.intervals import median_ratio
from skiprec.evaluation.measure.timing import Part, Seconds, stage_name, stage_named
from skiprec.evaluation.report.schema import Amdahl, Latency, Speedups, Timing, TotalSpeedups

# The part of an arm's time that is compared, and that of `FULL`, which has all blocks, no policy.
SPEEDUP_PARTS: dict[str, tuple[Part, Part]] = {
    "speedup_blocks": ("blocks", "blocks"),
    "speedup_policy": ("policy", "blocks"),
    "speedup_end_to_end": ("end", "end"),
}


def timing_of(batch: int, seconds: Seconds) -> Timing:
    """Latencies of each stage, speedups of each arm with intervals, and users a second.

    A speedup is the median of paired ratios. Where the rounds are of unlike users, as at batch 1,
    this is the speedup of the median user. "in_total" is the ratio of the sums over all users,
    which is the speedup of the machine that serves them.
    """
    speedups: dict[str, Speedups] = {}
    in_total: dict[str, TotalSpeedups] = {}
    arms = {stage_named(stage)[0] for stage in seconds} - {FULL}
    for arm in sorted(arms, key=lambda arm: arm.name):
        speedups[arm.name], in_total[arm.name] = _speedups(arm, seconds)
    return {
        "rounds": len(next(iter(seconds.values()))),
        "speedups": speedups,
        "in_total": in_total,
        "latency": {stage: _latency(seconds[stage]) for stage in seconds},
        "users_per_s": _users_per_s(batch, seconds),
    }


def amdahl(seconds: Seconds, keep_frac: float) -> Amdahl:
    """The speedup end to end if skipped blocks cost nothing and the rest took its full time.

    1 / (1 - f + f * keep_frac + p): f is the share of the blocks in the full time, p the time of
    the policy over the full time.
    """
    full_end, skiprec_end = seconds[stage_name(FULL, "end")], seconds[stage_name(SKIPREC, "end")]
    blocks, with_policy = (
        seconds[stage_name(SKIPREC, "blocks")],
        seconds[stage_name(SKIPREC, "policy")],
    )
    full_s = float(np.median(full_end))
    blocks_share = float(np.median(seconds[stage_name(FULL, "blocks")])) / full_s
    policy_s = np.median(with_policy - blocks)
    policy_share = max(0.0, float(policy_s)) / full_s
    predicted = 1 / (1 - blocks_share + blocks_share * keep_frac + policy_share)
    measured_ratio, bounds = median_ratio(full_end, skiprec_end)
    return {
        "blocks_share_of_full": blocks_share,
        "policy_share_of_full": policy_share,
        "predicted": predicted,
        "limit_if_all_blocks_were_free": 1 / max(1e-9, 1 - blocks_share + policy_share),
        "measured": measured_ratio,
        "measured_interval": bounds,
    }


def _speedups(arm: Arm, seconds: Seconds) -> tuple[Speedups, TotalSpeedups]:
    medians: dict[str, object] = {}
    totals: dict[str, float] = {}
    for speedup, (own_part, full_part) in SPEEDUP_PARTS.items():
        own = seconds.get(stage_name(arm, own_part))
        if own is not None:
            full = seconds[stage_name(FULL, full_part)]
            medians[speedup], medians[f"{speedup}_interval"] = median_ratio(full, own)
            totals[speedup] = float(full.sum() / own.sum())
    return cast(Speedups, medians), cast(TotalSpeedups, totals)


def _latency(seconds_N: np.ndarray[tuple[int], np.dtype[np.float64]]) -> Latency:
    p50, p95, p99 = (float(np.percentile(seconds_N, q)) for q in (50, 95, 99))
    return {"p50_s": p50, "p95_s": p95, "p99_s": p99}


def _users_per_s(batch: int, seconds: Seconds) -> dict[str, float]:
    return {
        arm.name: batch / float(np.mean(seconds[stage_name(arm, "end")]))
        for arm, part in map(stage_named, seconds)
        if part == "end"
    }
