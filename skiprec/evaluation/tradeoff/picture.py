"""`tradeoff.png`: accuracy against measured time, one line a model."""

from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter, ScalarFormatter

from skiprec.evaluation.tradeoff.report import TradeoffReport
from skiprec.observability.pictures import FAINT, INK, SKIPPED, new_figure, write_title

COLOURS = ("#1f5f8b", "#d1495b", "#5a8f3d", "#8a5fa8", "#c98a1b", "#2b9c9c")
MARKERS = "osD^vPX"
LOG_FROM = 8.0  # the slowest time over the fastest one, from which on the axis is logarithmic


def draw_tradeoff(report: TradeoffReport) -> Figure:
    """Models with a knob are lines; a model without one is a single mark."""
    figure, axes = new_figure(7.6, 4.8)
    axes.grid(color=SKIPPED, linewidth=1)
    front = [(line["ms"], line["mrr@20"]) for line in report["lines"] if line["is_on_front"]]
    axes.step(*zip(*front, strict=True), where="post", color=FAINT, linewidth=1, linestyle=":")
    names = list(dict.fromkeys(line["model"] for line in report["lines"]))
    for number, name in enumerate(sorted(names)):
        lines = [line for line in report["lines"] if line["model"] == name]
        axes.plot(
            [line["ms"] for line in lines],
            [line["mrr@20"] for line in lines],
            MARKERS[number % len(MARKERS)] + ("-" if len(lines) > 1 else ""),
            color=COLOURS[number % len(COLOURS)],
            markersize=6,
            linewidth=1.2,
            label=name,
        )
    slowest, fastest = report["lines"][-1]["ms"], report["lines"][0]["ms"]
    if slowest > LOG_FROM * fastest:
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter(ScalarFormatter())
        axes.xaxis.set_minor_formatter(NullFormatter())
    axes.margins(y=0.12)
    axes.set_xlabel("milliseconds a user, from a history to its top 20, one thread")
    axes.set_ylabel("MRR@20")
    axes.legend(frameon=False, fontsize=9, labelcolor=INK)
    conditions = report["conditions"]
    write_title(
        axes,
        "Accuracy against measured time",
        f"{conditions['rows']} rows · batch {conditions['batch']} · dotted: the best for its time"
        " · intervals of differences are in the table",
    )
    return figure
