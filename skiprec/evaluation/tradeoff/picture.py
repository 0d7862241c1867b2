"""`tradeoff.png`: accuracy against measured time, one line a model."""

from matplotlib.figure import Figure

from skiprec.evaluation.tradeoff.report import TradeoffReport
from skiprec.observability.pictures import FAINT, INK, SKIPPED, new_figure, write_title

COLOURS = ("#1f5f8b", "#d1495b", "#5a8f3d", "#8a5fa8", "#c98a1b", "#2b9c9c")
MARKERS = "osD^vPX"


def draw_tradeoff(report: TradeoffReport) -> Figure:
    """Models with a knob are lines; a model without one is a single mark."""
    figure, axes = new_figure(7.6, 4.8)
    axes.grid(color=SKIPPED, linewidth=1)
    front = [(line["ms"], line["mrr@20"]) for line in report["lines"] if line["is_on_front"]]
    axes.step(*zip(*front, strict=True), where="post", color=FAINT, linewidth=1, linestyle=":")
    names = list(dict.fromkeys(line["model"] for line in report["lines"]))
    for number, name in enumerate(sorted(names)):
        lines = [line for line in report["lines"] if line["model"] == name]
        values = [line["mrr@20"] for line in lines]
        bounds = [line["mrr@20_interval"] for line in lines]
        axes.errorbar(
            [line["ms"] for line in lines],
            values,
            yerr=[
                [value - low for value, (low, _) in zip(values, bounds, strict=True)],
                [high - value for value, (_, high) in zip(values, bounds, strict=True)],
            ],
            fmt=MARKERS[number % len(MARKERS)] + ("-" if len(lines) > 1 else ""),
            color=COLOURS[number % len(COLOURS)],
            ecolor=FAINT,
            elinewidth=0.8,
            markersize=5,
            linewidth=1.2,
            capsize=2,
            label=name,
        )
    axes.set_xlabel("milliseconds a user, from a history to its top 20, one thread")
    axes.set_ylabel("MRR@20, with 95 % interval over users")
    axes.legend(frameon=False, fontsize=9, labelcolor=INK, loc="lower right")
    subtitle = f"{report['conditions']['rows']} rows, batch {report['conditions']['batch']}"
    write_title(axes, "Accuracy against measured time", f"{subtitle}; dotted: the best so far")
    return figure
