"""Learning curves of several runs: loss and validation MRR against epochs and against time."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from skiprec.observability.markdown import markdown_table

LOSS, MRR = "train/loss", "validation/mrr@20"
LINES = ("-", "--", ":", "-.")
COLOURS = ("#1f5f8b", "#d1495b", "#3a7d44", "#8a6fb0", "#c98a1b", "#5b6770", "#2a9d8f", "#7f4f24")


@dataclass(frozen=True)
class Curve:
    """The curves of one run. Points are (epochs, hours, value); hours of training steps alone."""

    label: str
    loss: list[tuple[float, float, float]]
    mrr: list[tuple[float, float, float]]

    @property
    def end(self) -> tuple[float, float]:
        """Epochs and hours at the last log line."""
        return self.loss[-1][:2] if self.loss else (0.0, 0.0)

    def after(self, before: "Curve | None") -> "Curve":
        """The same curve behind that of `before`, the stage from which this run started."""
        if before is None:
            return self
        epochs_0, hours_0 = before.end

        def moved(points: list[tuple[float, float, float]]) -> list[tuple[float, float, float]]:
            return [(epochs + epochs_0, hours + hours_0, value) for epochs, hours, value in points]

        return Curve(self.label, moved(self.loss), moved(self.mrr))


def read_curve(metrics: Path, label: str) -> Curve:
    """The curve of a run's `metrics.jsonl`.

    Time is the sum over the seconds of the steps. Neither validation nor the pauses of an
    interrupted run are part of it.
    """
    loss, mrr = [], []
    step, epochs, hours = 0, 0.0, 0.0
    for line in _whole_lines(metrics):
        if LOSS in line:
            hours += (line["step"] - step) * line["time/step_s"] / 3600
            step, epochs = line["step"], line["progress/epoch"]
            loss.append((epochs, hours, line[LOSS]))
        if MRR in line:
            mrr.append((epochs, hours, line[MRR]))
    return Curve(label, loss, mrr)


def _whole_lines(metrics: Path) -> Iterator[dict[str, Any]]:
    """The lines up to one that is torn: a run that was killed, or that is writing now, has one."""
    for text in metrics.read_text(errors="replace").splitlines():
        try:
            line = json.loads(text)
        except json.JSONDecodeError:
            return
        yield line


def time_to_reach(curve: Curve, mrr: float) -> tuple[float, float] | None:
    """Epochs and hours of training until validation reached `mrr`; None if it did not."""
    return next((point[:2] for point in curve.mrr if point[2] >= mrr), None)


def convergence_table(curves: list[Curve], reference: Curve) -> list[str]:
    """The lines of a table: how long each run took to 99 % of the reference's best MRR@20."""
    target = 0.99 * max((value for _, _, value in reference.mrr), default=0.0)
    text = (
        f"Training until validation MRR@20 is {target:.4f}, 99 % of the best of {reference.label}; "
        "the stages before are counted:"
    )
    rows = []
    for curve in curves:
        reached = time_to_reach(curve, target)
        when = ["not reached", ""]
        if reached is not None:
            epochs, hours = reached
            when = [f"{epochs:.1f}", f"{60 * hours:.0f}"]
        best = max((value for _, _, value in curve.mrr), default=0.0)
        rows.append([curve.label, *when, f"{best:.4f}"])
    return [text, "", *markdown_table(("model", "epochs", "minutes", "best"), rows)]


def convergence_figure(curves: list[Curve]) -> Figure:
    """Four panels: training loss and validation MRR@20, each against epochs and against hours."""
    columns = 3
    figure = Figure(figsize=(10, 7 + 0.2 * -(-len(curves) // columns)), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(2, 2, sharey="row", sharex="col")
    for row, number in enumerate(("loss", "mrr")):
        for column in (0, 1):
            axes = panels[row][column]
            for curve_number, curve in enumerate(curves):
                line, colour = divmod(curve_number, len(COLOURS))
                points = getattr(curve, number)
                axes.plot(
                    [point[column] for point in points],
                    [point[2] for point in points],
                    color=COLOURS[colour],
                    linestyle=LINES[line % len(LINES)],
                    label=curve.label,
                    linewidth=1.5,
                    marker="o" if number == "mrr" else None,
                    markersize=3,
                )
            axes.grid(alpha=0.3)
            axes.spines[["top", "right"]].set_visible(False)
    panels[0][0].set_ylabel("training loss, nats a position")
    panels[1][0].set_ylabel("validation MRR@20")
    panels[1][0].set_xlabel("epochs, those of the first stage included")
    panels[1][1].set_xlabel("hours of training steps, those of the first stage included")
    entries = panels[0][0].get_legend_handles_labels()
    figure.legend(*entries, loc="outside lower center", ncols=columns, frameon=False, fontsize=8)
    return figure


def depth_figure(points: list[tuple[str, int, float, list[float]]]) -> Figure:
    """MRR@20 of networks that were trained from scratch at several depths, shallow ones first.

    Args:
        points: (label, blocks, mean, interval).
    """
    figure = Figure(figsize=(6.4, 0.8 + 0.4 * len(points)), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    rising = sorted(points, key=lambda point: point[1])
    for y, (_, _, mean, bounds) in enumerate(rising):
        error = [[abs(bound - mean)] for bound in bounds]
        axes.errorbar([mean], [y], xerr=error, color=COLOURS[0], marker="o", capsize=3)
    axes.set_yticks(range(len(rising)), [label for label, *_ in rising])
    axes.invert_yaxis()
    axes.margins(y=0.6 / len(points))
    axes.set_xlabel("MRR@20, 95 % interval over users")
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="x", alpha=0.3)
    return figure
