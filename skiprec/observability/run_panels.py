"""The figures of a run's page, each with its words and its numbers."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import plotly.graph_objects as go
import pyarrow.parquet
from numpy.typing import NDArray

from skiprec.observability.curves import COLOURS, Curve, read_curve
from skiprec.observability.pictures import KEPT, SKIPPED

METRICS, REPORT, PER_USER = "metrics.jsonl", "report.json", "per_user.parquet"
MAX_USERS = 400
INK = "#22303c"
DASHES = ("solid", "dash", "dot", "dashdot")
FULL = ("all_blocks", "full_backbone")  # without a policy it has the second name
Table = list[list[str]]  # the first line has the names of the columns


@dataclass(frozen=True)
class Panel:
    """A figure with its words and its numbers."""

    title: str
    text: str
    figure: go.Figure
    table: Table


def curve_panels(runs: Sequence[Path]) -> list[Panel]:
    """Validation accuracy during training, of all runs over each other; by epochs and by time."""
    curves = [read_curve(run / METRICS, run.name) for run in runs if (run / METRICS).exists()]
    curves = [curve for curve in curves if curve.mrr]
    if not curves:
        return []
    best = [
        [curve.label, f"{max(v for *_, v in curve.mrr):.4f}", *_ends(curve)] for curve in curves
    ]
    table = [["run", "best MRR@20", "epochs", "minutes"], *best]
    panels = []
    for place, (unit, scale) in enumerate((("epochs", 1), ("minutes of training steps", 60))):
        figure = go.Figure()
        for number, curve in enumerate(curves):
            figure.add_scatter(
                x=[point[place] * scale for point in curve.mrr],
                y=[point[2] for point in curve.mrr],
                name=curve.label,
                mode="lines+markers",
                line=_line(number),
            )
        _style(figure, unit, "validation MRR@20")
        figure.update_layout(height=440 + 20 * -(-len(curves) // 5))  # the legend has many lines
        runs_text = "a run" if len(curves) == 1 else f"{len(curves)} runs"
        text = f"Accuracy of {runs_text} on validation rows against {unit}."
        panels.append(Panel(f"Training by {unit.split()[0]}", text, figure, table))
    return panels


def runs_panel(reports: Sequence[tuple[str, dict[str, Any]]]) -> Panel:
    """The accuracy of several runs: with all blocks, and of their policies."""
    figure = go.Figure()
    table = [["run", "arm", "MRR@20", "95 % interval"]]
    for number, (label, names) in enumerate((("all blocks", FULL), ("skiprec", ("skiprec",)))):
        by_run = [
            (run, [row for row in report["rows"] if row["name"] in names])
            for run, report in reports
        ]
        rows = [(run, found[0]) for run, found in by_run if found]
        figure.add_scatter(
            x=[row["mrr@20"] for _, row in rows],
            y=[run for run, _ in rows],
            name=label,
            mode="markers",
            marker={"size": 9, "color": COLOURS[number]},
            error_x=_bars([(row["mrr@20"], row["mrr@20_interval"]) for _, row in rows]),
        )
        table += [
            [run, label, f"{row['mrr@20']:.4f}", _interval(row["mrr@20_interval"])]
            for run, row in rows
        ]
    _style(figure, "MRR@20", "")
    figure.update_yaxes(
        autorange="reversed",
        automargin=True,
        categoryorder="array",
        categoryarray=[name for name, _ in reports],
    )
    figure.update_layout(height=max(300, 120 + 24 * len(reports)))
    text = "Accuracy of each run on its own evaluation rows, with 95 % intervals."
    return Panel("All runs", text, figure, table)


def report_panels(run: Path, report: dict[str, Any]) -> list[Panel]:
    """What the evaluation of a run has found."""
    panels = [accuracy_panel(run.name, report)]
    if report["policy"] is not None and (run / PER_USER).exists():
        columns = ["keep", "history_length"]
        rows = pyarrow.parquet.read_table(run / PER_USER, columns=columns)
        flat = rows["keep"].combine_chunks().flatten().to_numpy(zero_copy_only=False)
        length_R = rows["history_length"].to_numpy()
        panels.append(keep_panel(run.name, flat.reshape(len(rows), -1), length_R))
    if report.get("by_length"):
        panels.append(length_panel(run.name, report["by_length"]))
    if report["differences"]:
        panels.append(difference_panel(run.name, report["differences"]))
    return panels


def accuracy_panel(name: str, report: dict[str, Any]) -> Panel:
    """Accuracy of the arms against how many times faster than all blocks they are."""
    speed = "speedup_end_to_end" if report["timing"] else "speedup_flops"
    what = "measured time, end to end" if report["timing"] else "FLOPs"
    rows = [row for row in report["rows"] if row["mrr@20"] is not None and row[speed] is not None]
    figure = go.Figure()
    for number, row in enumerate(rows):
        figure.add_scatter(
            x=[row[speed]],
            y=[row["mrr@20"]],
            name=row["name"],
            mode="markers",
            marker={"size": 11, "color": COLOURS[number % len(COLOURS)]},
            error_y=_bars([(row["mrr@20"], row["mrr@20_interval"])]),
        )
    _style(figure, "times as fast as all blocks", "MRR@20")
    table = [["arm", "MRR@20", "95 % interval", "speedup"]]
    table += [
        [
            row["name"],
            f"{row['mrr@20']:.4f}",
            _interval(row["mrr@20_interval"]),
            f"{row[speed]:.2f}",
        ]
        for row in rows
    ]
    text = (
        f"Each arm of the evaluation with its 95 % interval; the speedup is in {what}. Lists by "
        "counts alone have none. skiprec is the trained policy, shuffled its choices dealt to "
        "other users, fixed one set of blocks for everyone, frontier and hull the best mixtures "
        "of such sets."
    )
    return Panel(f"{name}: accuracy against speed", text, figure, table)


def keep_panel(name: str, keep_RL: NDArray[Any], length_R: NDArray[Any]) -> Panel:
    """Which rows keep which blocks; the pointer tells a row's history and its blocks.

    Args:
        length_R: items in the history of each row.
    """
    keep_RL = keep_RL.astype(bool)
    num_rows, num_blocks = keep_RL.shape
    order_R = np.lexsort((*keep_RL.T[::-1], keep_RL.sum(1)))[::-1]
    shown = order_R[np.linspace(0, num_rows - 1, min(num_rows, MAX_USERS)).round().astype(int)]
    hover = [
        f"history of {length_R[row]}: {keep_RL[row].sum()} of {num_blocks} blocks" for row in shown
    ]
    figure = go.Figure(
        go.Heatmap(
            z=keep_RL[shown].astype(int).tolist(),
            x=list(range(1, num_blocks + 1)),
            customdata=[[text] * num_blocks for text in hover],
            hovertemplate="%{customdata}<br>block %{x}<extra></extra>",
            colorscale=[[0, SKIPPED], [1, KEPT]],
            showscale=False,
            zmin=0,
            zmax=1,
        )
    )
    _style(figure, "block", "rows, most blocks first")
    figure.update_yaxes(autorange="reversed", showticklabels=False)
    kept_R = keep_RL.sum(1)
    counts = np.bincount(kept_R, minlength=num_blocks + 1)
    table = [["blocks kept", "rows"]]
    table += [[str(size), f"{count:,}"] for size, count in enumerate(counts.tolist()) if count]
    text = (
        f"{len(shown):,} of {num_rows:,} rows; dark where a block ran. "
        f"{len(np.unique(keep_RL, axis=0)):,} distinct decisions, {kept_R.mean():.1f} of "
        f"{num_blocks} blocks on average."
    )
    return Panel(f"{name}: who gets depth", text, figure, table)


def length_panel(name: str, lines: list[dict[str, Any]]) -> Panel:
    """Accuracy by the length of the history."""
    labels = [
        f"{line['from']} or more" if line["to"] is None else f"{line['from']} to {line['to']}"
        for line in lines
    ]
    arms = list(dict.fromkeys(arm for line in lines for arm in line["accuracy"]))
    figure = go.Figure()
    table = [["items before the target", "rows", *arms]]
    for number, arm in enumerate(arms):
        inside = [
            (label, line["accuracy"][arm])
            for label, line in zip(labels, lines, strict=True)
            if arm in line["accuracy"]
        ]
        figure.add_scatter(
            x=[label for label, _ in inside],
            y=[value["mrr@20"] for _, value in inside],
            name=arm,
            mode="lines+markers",
            line=_line(number),
            error_y=_bars([(value["mrr@20"], value["mrr@20_interval"]) for _, value in inside]),
        )
    _style(figure, "items before the target", "MRR@20")
    for label, line in zip(labels, lines, strict=True):
        found = [line["accuracy"].get(arm) for arm in arms]
        cells = ["" if value is None else f"{value['mrr@20']:.4f}" for value in found]
        table.append([label, f"{line['rows']:,}", *cells])
    text = "Accuracy of rows by the number of items before the target, with 95 % intervals."
    return Panel(f"{name}: by length of the history", text, figure, table)


def difference_panel(name: str, differences: list[dict[str, Any]]) -> Panel:
    """Paired differences between arms, with their intervals."""
    labels = [f"{one['of']} less {one['minus']}" for one in differences]
    values = [one["mrr@20"] for one in differences]
    bounds = [one["mrr@20_interval"] for one in differences]
    figure = go.Figure(
        go.Scatter(
            x=values,
            y=labels,
            mode="markers",
            marker={"size": 10, "color": KEPT},
            error_x=_bars(list(zip(values, bounds, strict=True))),
        )
    )
    _style(figure, "difference in MRR@20", "")
    figure.add_vline(x=0, line_color=INK, line_width=1)
    figure.update_yaxes(autorange="reversed", automargin=True)
    table = [["difference", "MRR@20", "95 % interval"]]
    table += [
        [label, f"{value:+.4f}", _interval(bound)]
        for label, value, bound in zip(labels, values, bounds, strict=True)
    ]
    text = (
        "On the same users, each with its own 95 % interval: of twenty differences by chance "
        "alone, about one would lie outside of zero."
    )
    return Panel(f"{name}: paired differences", text, figure, table)


def _ends(curve: Curve) -> list[str]:
    epochs, hours = curve.end
    return [f"{epochs:.1f}", f"{60 * hours:.1f}"]


def _interval(bounds: tuple[float, float]) -> str:
    sign = "+" if bounds[0] < 0 else ""
    return " to ".join(f"{bound:{sign}.4f}" for bound in bounds)


def _line(number: int) -> dict[str, str]:
    """Of the curve with this number: a colour, and a dash where the colours begin anew."""
    dash = DASHES[number // len(COLOURS) % len(DASHES)]
    return {"color": COLOURS[number % len(COLOURS)], "dash": dash}


def _bars(values: list[tuple[float, tuple[float, float]]]) -> dict[str, Any]:
    """The bars of values with their intervals."""
    return {
        "symmetric": False,
        "array": [high - value for value, (_, high) in values],
        "arrayminus": [value - low for value, (low, _) in values],
    }


def _style(figure: go.Figure, x: str, y: str) -> None:
    figure.update_layout(
        template="plotly_white",
        font={"color": INK, "size": 14},
        margin={"l": 60, "r": 15, "t": 15, "b": 55},
        legend={"orientation": "h", "yref": "container", "y": 0, "yanchor": "bottom"},
        xaxis_title=x,
        yaxis_title=y,
        height=460,
    )
    figure.update_xaxes(automargin=True, title_standoff=10)
