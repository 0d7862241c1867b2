"""What a load has shown: answers in time, their accuracy, and what could have been had."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skiprec.service.control import Point

Floats = NDArray[np.float64]
Sent = dict[str, list[Any]]  # what load.py reports of each request
Phases = tuple[tuple[float, float], ...]  # seconds, requests a second


def gains_of(sent: Sent) -> Floats:
    """Reciprocal rank of each request's target, 0 below the first 20; no list is a miss."""
    rank = np.array([rank or 0 for rank in sent["rank"]])
    return np.where((rank > 0) & (rank <= 20), 1 / np.maximum(rank, 1), 0.0)


def difference(ours: Sent, theirs: Sent, num_rows: int) -> tuple[float, float]:
    """Mean difference in MRR@20 on the same requests, and its standard error over test rows."""
    difference_N = gains_of(ours) - gains_of(theirs)
    row_N = np.arange(len(difference_N)) % num_rows
    count_R = np.bincount(row_N)
    sum_R = np.bincount(row_N, difference_N)
    mean = difference_N.mean()
    return float(mean), float(np.sqrt(((sum_R - mean * count_R) ** 2).sum()) / len(difference_N))


def summary_of(sent: Sent, promise_ms: float) -> dict[str, float]:
    """Shares of the requests, and the accuracy of the lists."""
    gain = gains_of(sent)
    is_answered = np.array(sent["status"]) == 200
    is_kept = is_answered & (np.array(sent["latency_ms"]) <= promise_ms)
    return {
        "answered": float(is_answered.mean()),
        "kept_promise": float(is_kept.mean()),
        "mrr": float(gain.mean()),
        "mrr_of_answers": float(gain[is_answered].mean()) if is_answered.any() else 0.0,
        "blocks": float(np.mean([kept for kept in sent["kept"] if kept is not None])),
        "p99_ms": float(np.quantile(sent["latency_ms"], 0.99)),
    }


@dataclass(frozen=True)
class Curve:
    """The points of a policy, and how long a request takes at each, with HTTP."""

    points: tuple[Point, ...]
    all_blocks: Point
    seconds_P: Floats

    @property
    def pairs(self) -> list[tuple[Point, float]]:
        """Each point with its seconds."""
        return list(zip(self.points, self.seconds_P.tolist(), strict=True))


def limit_by_arithmetic(curve: Curve, phases: Phases) -> float:
    """The best mean accuracy of all requests if depth could be mixed freely and nothing waited.

    In each phase the whole time of the service is shared: the accuracy is that of the upper hull
    of the points at the mean time that a request may take.
    """
    seconds = curve.seconds_P
    mrr = np.array([point.mrr_at_20 for point in curve.points])
    total = count = 0.0
    for length, rate in phases:
        budget_s = 1 / rate
        pairs = [
            np.interp(budget_s, seconds[[a, b]], mrr[[a, b]])
            for a in range(len(mrr))
            for b in range(a, len(mrr))
            if seconds[a] <= max(budget_s, seconds[0])
        ]
        total += rate * length * max(pairs)
        count += rate * length
    return total / count
