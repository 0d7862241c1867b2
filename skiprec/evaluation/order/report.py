"""`order.json`, `order.md` and `order.png`: accuracy by the order of the context."""

from typing import Any, NotRequired, cast

import numpy as np
import torch
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray
from pydantic import with_config
from typing_extensions import TypedDict

from skiprec.evaluation.measure.intervals import Interval, UserBootstrap, interval
from skiprec.evaluation.order.measure import OrderMeasured
from skiprec.evaluation.report.by_length import STARTS
from skiprec.evaluation.report.schema import COMPLETE
from skiprec.observability.markdown import markdown_table, with_interval
from skiprec.observability.pictures import ACCENT, FAINT, KEPT, style_panel, write_title
from skiprec.ranking import metric_values

# The least gain of a longer context over the last item, relative to it, that is called order. HR@10
# is asked first; in a small catalogue it may be near 1 at every order, and MRR@20 still tells.
LEAST_GAIN = 0.05
LEAST_USERS = 30
METRICS = ("hr@10", "mrr@20", "nats")

OrderRow = TypedDict(
    "OrderRow",
    {
        "order": int,
        "hr@10": float,
        "hr@10_interval": Interval,
        "hr@10_minus_order_1": float,
        "hr@10_minus_order_1_interval": Interval,
        "mrr@20": float,
        "mrr@20_interval": Interval,
        "mrr@20_minus_order_1": float,
        "mrr@20_minus_order_1_interval": Interval,
        "nats": float,
        "nats_interval": Interval,
    },
)
LengthLine = TypedDict(
    "LengthLine",
    {"from": int, "to": int | None, "rows": int, "hr@10": list[float], "gain": float,
     "gain_interval": Interval},
)  # fmt: skip


@with_config(COMPLETE)
class OrderReport(TypedDict):
    """`order.json`. `by_length` has the hit rate of each order, and that of `best_order` minus that
    of order 1."""

    orders: list[OrderRow]
    best_order: int
    by_length: list[LengthLine]
    statement: str
    conditions: dict[str, object]
    commit: NotRequired[str | None]


def order_report(measured: OrderMeasured, conditions: dict[str, object]) -> OrderReport:
    """All numbers of the report; intervals are over users."""
    num_orders = measured.rank_RK.shape[1]
    values = [metric_values(torch.from_numpy(rank_R)) for rank_R in measured.rank_RK.T]
    hit_RK = np.stack([value["hr@10"].numpy() for value in values], axis=1).astype(np.float64)
    mrr_RK = np.stack([value["mrr@20"].numpy() for value in values], axis=1).astype(np.float64)
    gains = (hit_RK - hit_RK[:, 1:2], mrr_RK - mrr_RK[:, 1:2])
    value_RC = np.concatenate([hit_RK, mrr_RK, measured.nats_RK, *gains], axis=1)
    mean_C = value_RC.mean(0)
    resampled_NC = UserBootstrap(measured.user_R).resampled_means(value_RC)

    def number(part: int, order: int) -> tuple[float, Interval]:
        column = part * num_orders + order
        return float(mean_C[column]), interval(resampled_NC[:, column])

    orders: list[OrderRow] = []
    for order in range(num_orders):
        (hit, hit_i), (mrr, mrr_i), (nats, nats_i), (gain, gain_i), (mrr_gain, mrr_gain_i) = (
            number(part, order) for part in range(5)
        )
        orders.append(
            {
                "order": order,
                "hr@10": hit,
                "hr@10_interval": hit_i,
                "hr@10_minus_order_1": gain,
                "hr@10_minus_order_1_interval": gain_i,
                "mrr@20": mrr,
                "mrr@20_interval": mrr_i,
                "mrr@20_minus_order_1": mrr_gain,
                "mrr@20_minus_order_1_interval": mrr_gain_i,
                "nats": nats,
                "nats_interval": nats_i,
            }
        )
    best = max(range(2, num_orders), key=lambda order: orders[order]["hr@10"])
    # Whether each order is ahead of order 0, which is popularity.
    over_popularity = {
        metric: [
            interval(
                resampled_NC[:, part * num_orders + order] - resampled_NC[:, part * num_orders]
            )[0]
            > 0
            for order in range(num_orders)
        ]
        for part, metric in enumerate(("hr@10", "mrr@20"))
    }
    return {
        "orders": orders,
        "best_order": best,
        "by_length": _by_length(measured, hit_RK, best),
        "statement": _statement(orders, measured, over_popularity),
        "conditions": conditions,
    }


def _by_length(measured: OrderMeasured, hit_RK: NDArray[np.float64], best: int) -> list[LengthLine]:
    lines: list[LengthLine] = []
    for start, end in zip(STARTS, (*STARTS[1:], None), strict=True):
        inside_R = (measured.length_R >= start) & (measured.length_R < (end or np.inf))
        if inside_R.any():
            gain_R1 = hit_RK[inside_R, best : best + 1] - hit_RK[inside_R, 1:2]
            resampled_N1 = UserBootstrap(measured.user_R[inside_R]).resampled_means(gain_R1)
            lines.append(
                {
                    "from": start,
                    "to": None if end is None else end - 1,
                    "rows": int(inside_R.sum()),
                    "hr@10": hit_RK[inside_R].mean(0).tolist(),
                    "gain": float(gain_R1.mean()),
                    "gain_interval": interval(resampled_N1[:, 0]),
                }
            )
    return lines


def _statement(
    orders: list[OrderRow], measured: OrderMeasured, over_popularity: dict[str, list[bool]]
) -> str:
    num_users, num_rows = len(np.unique(measured.user_R)), len(measured.user_R)
    if measured.unseen_targets > num_rows / 2:
        return (
            f"Not measured: {measured.unseen_targets:,} of {num_rows:,} targets are in no training "
            "row, so no context tells them; expected targets that were trained on: look at the "
            "split of the data."
        )
    if num_users < LEAST_USERS:
        return (
            f"Rows of {num_users} users were held out, too few to say whether order tells "
            f"anything; expected {LEAST_USERS} users or more: build the data with more test rows."
        )
    for metric, name in (("hr@10", "HR@10"), ("mrr@20", "MRR@20")):
        numbers, is_order = _gain_of(orders, metric, name, over_popularity[metric])
        if is_order:
            return f"Order beyond the last item is there to be learned: {numbers}; depth may pay."
    numbers, _ = _gain_of(orders, "hr@10", "HR@10", over_popularity["hr@10"])
    return (
        f"Counting shows no order beyond the last item: {numbers}. Depth may still pay, since "
        "counts of long contexts are sparse, but expect a shallow network to be as good."
    )


def _gain_of(
    orders: list[OrderRow], metric: str, name: str, over_popularity: list[bool]
) -> tuple[str, bool]:
    """The best longer context against the last item alone, in words; whether that is order.

    It must be ahead of popularity as well: where the last item tells less than nothing, a longer
    context that is seldom found is better than it.
    """
    rows = [cast(dict[str, Any], row) for row in orders]
    best = max(rows[2:], key=lambda row: row[metric])
    gain, (low, high) = best[f"{metric}_minus_order_1"], best[f"{metric}_minus_order_1_interval"]
    last = rows[1][metric]
    numbers = (
        f"the last {best['order']} items reach {name} {best[metric]:.3f}, the last one alone "
        f"{last:.3f} ({gain:+.3f} [{low:+.3f}, {high:+.3f}])"
    )
    is_ahead = low > 0 and over_popularity[best["order"]]
    return numbers, is_ahead and gain >= LEAST_GAIN * last


def order_markdown(report: OrderReport) -> str:
    """The contents of `order.md`."""
    lines = ["# What the order of items tells", "", report["statement"], ""]
    lines += order_table(report)
    lines += ["", "![hit rate by order and by length of the history](order.png)", ""]
    lines += ["## By length of the history before the target", ""]
    num_orders = len(report["orders"])
    lines += markdown_table(
        ("items", "rows", *(f"order {k}" for k in range(num_orders)), "best minus order 1"),
        [
            (
                f"{line['from']}-{'' if line['to'] is None else line['to']}",
                f"{line['rows']:,}",
                *(f"{hit:.3f}" for hit in line["hr@10"]),
                with_interval(line["gain"], line["gain_interval"], "+.3f"),
            )
            for line in report["by_length"]
        ],
    )
    lines += ["", "## Conditions", ""]
    lines += [f"- {key}: {value}" for key, value in report["conditions"].items()]
    return "\n".join(lines) + "\n"


def order_table(report: OrderReport) -> list[str]:
    """The lines of the table by order; 95 % intervals over users."""
    return markdown_table(
        ("order", "HR@10", "minus order 1", "MRR@20", "nats"),
        [
            (
                str(row["order"]),
                f"{row['hr@10']:.4f}",
                ""
                if row["order"] < 2
                else with_interval(
                    row["hr@10_minus_order_1"], row["hr@10_minus_order_1_interval"], "+.4f"
                ),
                f"{row['mrr@20']:.4f}",
                f"{row['nats']:.3f}",
            )
            for row in report["orders"]
        ],
        padded=True,
    )


def draw_order(report: OrderReport) -> Figure:
    """`order.png`: the hit rate by order, and the gain over order 1 by length of the history."""
    figure = Figure(figsize=(10, 3.8), dpi=120, layout="constrained")
    left, right = figure.subplots(1, 2)
    style_panel(left)
    style_panel(right)
    orders = report["orders"]
    hits = np.array([row["hr@10"] for row in orders])
    bounds = np.array([row["hr@10_interval"] for row in orders])
    left.errorbar(
        range(len(orders)), hits, (hits - bounds[:, 0], bounds[:, 1] - hits), color=KEPT, marker="o"
    )
    left.axhline(hits[1], color=FAINT, linewidth=0.8, linestyle="--")
    left.xaxis.set_major_locator(MaxNLocator(integer=True))
    left.set_xlabel("order: number of last items that are known")
    left.set_ylabel("HR@10")
    write_title(left, "Hit rate by order", "held-out rows, 95 % intervals; dashed: order 1")
    lines = report["by_length"]
    gains = np.array([line["gain"] for line in lines])
    bounds = np.array([line["gain_interval"] for line in lines])
    right.errorbar(
        range(len(lines)), gains, (gains - bounds[:, 0], bounds[:, 1] - gains), color=ACCENT,
        marker="o", linestyle="none",
    )  # fmt: skip
    right.axhline(0, color=FAINT, linewidth=0.8)
    right.set_xticks(
        range(len(lines)),
        [f"{line['from']}-{'' if line['to'] is None else line['to']}" for line in lines],
    )
    right.set_xlabel("items before the target")
    right.set_ylabel(f"HR@10: order {report['best_order']} minus order 1")
    write_title(right, "Gain of a longer context", "by length of the history")
    return figure
