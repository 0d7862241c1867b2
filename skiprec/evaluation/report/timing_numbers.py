"""Speedups, latencies and Amdahl's prediction, from the seconds that the stages took."""

from typing import Any

import numpy as np

from skiprec.evaluation.measure.intervals import median_ratio
from skiprec.evaluation.measure.timing import Seconds

Record = dict[str, Any]

# What is divided by what: the reference has all blocks and no policy.
RATIOS = {
    "speedup_blocks": ("full/blocks", "blocks"),
    "speedup_policy": ("full/blocks", "policy"),
    "speedup_end_to_end": ("full/end", "end"),
}


def timing_of(batch: int, seconds: Seconds) -> Record:
    """Latencies of each stage, speedups of each arm with intervals, and users a second.

    A speedup is the median of paired ratios. Where rounds are of unlike users, as at batch 1, that
    is the median user's; "in total" all users' times are added up, which is what a machine serves.
    """
    speedups: dict[str, Record] = {}
    in_total: dict[str, Record] = {}
    for arm in sorted({name.split("/")[0] for name in seconds} - {"full"}):
        speedups[arm], in_total[arm] = {}, {}
        for speedup, (reference, what) in RATIOS.items():
            if f"{arm}/{what}" in seconds:
                ratio, bounds = median_ratio(seconds[reference], seconds[f"{arm}/{what}"])
                speedups[arm] |= {speedup: ratio, f"{speedup}_interval": bounds}
                total = seconds[reference].sum() / seconds[f"{arm}/{what}"].sum()
                in_total[arm][speedup] = float(total)
    latency = {
        name: {f"p{q}_s": float(np.percentile(times, q)) for q in (50, 95, 99)}
        for name, times in seconds.items()
    }
    return {
        "rounds": len(next(iter(seconds.values()))),
        "speedups": speedups,
        "in_total": in_total,
        "latency": latency,
        "users_per_s": _users_per_s(batch, seconds),
    }


def _users_per_s(batch: int, seconds: Seconds) -> dict[str, float]:
    return {
        name.split("/")[0]: batch / float(np.mean(times))
        for name, times in seconds.items()
        if name.endswith("/end")
    }


def amdahl(seconds: Seconds, keep_frac: float) -> Record:
    """End to end if a skipped block cost nothing: what is not blocks does not get faster.

    1 / (1 - f + f * keep + p), f the blocks' share of the full time, p the policy's time over it.
    """
    full_s = float(np.median(seconds["full/end"]))
    blocks_share = float(np.median(seconds["full/blocks"])) / full_s
    policy_s = np.median(seconds["skiprec/policy"] - seconds["skiprec/blocks"])
    policy_share = max(0.0, float(policy_s)) / full_s
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
