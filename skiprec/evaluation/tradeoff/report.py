"""`tradeoff.json` and `tradeoff.md`: which model at which setting for how many milliseconds.

A point is compared with what the other models reach in its time. An honest rival is a model that is
as fast, or a coin between two models whose mean time is the same: it gives no user a depth of their
own, and needs no policy.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import with_config
from typing_extensions import TypedDict

from skiprec.evaluation.measure.intervals import Floats, Interval, UserBootstrap, interval
from skiprec.evaluation.report.schema import COMPLETE
from skiprec.evaluation.tradeoff.measure import TradeoffMeasured
from skiprec.observability.markdown import markdown_table, with_interval


class Gain(TypedDict):
    """MRR@20 less that of what other models reach in the same time."""

    against: str
    difference: float
    difference_interval: Interval


Line = TypedDict(
    "Line",
    {
        "model": str,
        "keep": float | None,
        "blocks": float,
        "ms": float,
        "ms_range": Interval,
        "mrr@20": float,
        "mrr@20_interval": Interval,
        "is_on_front": bool,
        "minus_fastest": Gain | None,
        "minus_coin": Gain | None,
    },
)


@with_config(COMPLETE)
class TradeoffReport(TypedDict):
    """`tradeoff.json`; the lines rise in time."""

    lines: list[Line]
    conditions: dict[str, Any]


def tradeoff_report(measured: TradeoffMeasured, conditions: dict[str, Any]) -> TradeoffReport:
    """All numbers of the report; intervals are over users, ranges over rounds of times."""
    ms_P = np.median(measured.ms_NP, axis=0)
    mean_P = measured.gain_RP.mean(0)
    bootstrap = UserBootstrap(measured.user_R)
    resampled_NP = bootstrap.resampled_means(measured.gain_RP)
    model_P = np.array([point.model for point in measured.points])
    front = set(front_of(ms_P, mean_P))
    lines: list[Line] = []
    for place in np.argsort(ms_P, kind="stable").tolist():
        point = measured.points[place]
        others = np.flatnonzero(model_P != point.model)

        def gain(weights_P: Floats | None, place: int = place) -> Gain | None:
            if weights_P is None:
                return None
            used = np.flatnonzero(weights_P).tolist()
            return Gain(
                against=" and ".join(_label(measured, other) for other in used),
                difference=float(mean_P[place] - mean_P @ weights_P),
                difference_interval=interval(resampled_NP[:, place] - resampled_NP @ weights_P),
            )

        low, high = np.quantile(measured.ms_NP[:, place], (0.1, 0.9))
        lines.append(
            {
                "model": point.model,
                "keep": point.keep,
                "blocks": float(measured.blocks_P[place]),
                "ms": float(ms_P[place]),
                "ms_range": (float(low), float(high)),
                "mrr@20": float(mean_P[place]),
                "mrr@20_interval": interval(resampled_NP[:, place]),
                "is_on_front": place in front,
                "minus_fastest": gain(best_as_fast(ms_P, mean_P, others, ms_P[place])),
                "minus_coin": gain(best_coin(ms_P, mean_P, others, ms_P[place])),
            }
        )
    return {"lines": lines, "conditions": conditions}


def front_of(ms_P: Floats, mean_P: Floats) -> list[int]:
    """The points that no other one beats in time and accuracy, rising in time."""
    front: list[int] = []
    for place in np.lexsort((-mean_P, ms_P)).tolist():
        if not front or mean_P[place] > mean_P[front[-1]]:
            front.append(place)
    return front


def best_as_fast(
    ms_P: Floats, mean_P: Floats, others: NDArray[np.int64], ms: float
) -> Floats | None:
    """`weights_P`, 1 at the most accurate of the other points that is as fast; None without one."""
    fast = others[ms_P[others] <= ms]
    if not len(fast):
        return None
    weights_P = np.zeros(len(ms_P))
    weights_P[fast[mean_P[fast].argmax()]] = 1
    return weights_P


def best_coin(ms_P: Floats, mean_P: Floats, others: NDArray[np.int64], ms: float) -> Floats | None:
    """`weights_P` of the best coin between two other points whose mean time is at most `ms`."""
    best = best_as_fast(ms_P, mean_P, others, ms)
    if best is None:
        return None
    for fast in others[ms_P[others] <= ms]:
        for slow in others[ms_P[others] > ms]:
            weights_P = np.zeros(len(ms_P))
            weights_P[slow] = (ms - ms_P[fast]) / (ms_P[slow] - ms_P[fast])
            weights_P[fast] = 1 - weights_P[slow]
            if mean_P @ weights_P > mean_P @ best:
                best = weights_P
    return best


def tradeoff_markdown(report: TradeoffReport) -> str:
    """The contents of `tradeoff.md`."""
    lines = ["# Accuracy against measured time", "", *tradeoff_table(report), ""]
    lines += [
        "A star marks a point that no other one beats in both. Differences are to the other",
        "models: to the best point that is as fast, and to the best coin between two points whose",
        "mean time is the same. 95 % intervals are over users; the range of a time has 80 % of",
        "the rounds.",
        "",
        "![accuracy against time](tradeoff.png)",
        "",
        "## Conditions",
        "",
    ]
    lines += [f"- {key}: {value}" for key, value in report["conditions"].items()]
    return "\n".join(lines) + "\n"


def tradeoff_table(report: TradeoffReport) -> list[str]:
    """The lines of the table, rising in time."""
    return markdown_table(
        ("model", "keep", "blocks", "ms a user", "MRR@20", "minus one as fast", "minus a coin"),
        [
            (
                line["model"] + (" *" if line["is_on_front"] else ""),
                "" if line["keep"] is None else f"{line['keep']:.3f}",
                f"{line['blocks']:.1f}",
                with_interval(line["ms"], line["ms_range"], ".3f"),
                f"{line['mrr@20']:.4f}",
                _gain(line["minus_fastest"]),
                _gain(line["minus_coin"]),
            )
            for line in report["lines"]
        ],
    )


def _gain(gain: Gain | None) -> str:
    if gain is None:
        return ""
    number = with_interval(gain["difference"], gain["difference_interval"], "+.4f")
    return f"{number} {gain['against']}"


def _label(measured: TradeoffMeasured, place: int) -> str:
    point = measured.points[place]
    return point.model if point.keep is None else f"{point.model}@{point.keep:.2f}"
