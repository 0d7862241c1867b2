"""One page with all that runs have to show: curves, accuracy against time, decisions, differences.

The page is one HTML file that holds its figures and the script that draws them (Plotly), so that it
can be saved and sent. Under each figure a table has its numbers.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
import plotly.graph_objects as go
import pyarrow.parquet
from numpy.typing import NDArray
from plotly.offline import get_plotlyjs

from skiprec.observability.curves import COLOURS, Curve, read_curve
from skiprec.observability.pictures import KEPT, SKIPPED

CONFIG, METRICS = "config.json", "metrics.jsonl"
REPORT, PER_USER = "report.json", "per_user.parquet"
MAX_USERS = 400
INK = "#22303c"
Table = list[list[str]]  # the first line has the names of the columns


@dataclass(frozen=True)
class Panel:
    """A figure with its words and its numbers."""

    title: str
    text: str
    figure: go.Figure
    table: Table


def find_runs(folders: Sequence[Path]) -> list[Path]:
    """The run folders among these, and those directly inside of them, in order of their names.

    Raises:
        ValueError: a folder neither is nor holds a run.
    """
    found: list[Path] = []
    for folder in folders:
        inside = sorted(path.parent for path in folder.glob(f"*/{CONFIG}"))
        runs = [folder] if (folder / CONFIG).exists() else inside
        if not runs:
            raise ValueError(
                f"{folder} neither is nor holds a run (no {CONFIG}); expected the folder of a "
                "trained run, such as runs/quickstart"
            )
        found += runs
    return list(dict.fromkeys(found))


def run_page(runs: Sequence[Path]) -> str:
    """The page of these runs, as they stand on the disk now."""
    panels = curve_panels(runs)
    for run in runs:
        if (run / REPORT).exists():
            panels += report_panels(run)
    title = ", ".join(run.name for run in runs[:3]) + (" …" if len(runs) > 3 else "")
    return as_html(title, panels)


def curve_panels(runs: Sequence[Path]) -> list[Panel]:
    """Validation accuracy during training, of all runs over each other; by epochs and by hours."""
    curves = [read_curve(run / METRICS, run.name) for run in runs if (run / METRICS).exists()]
    curves = [curve for curve in curves if curve.mrr]
    if not curves:
        return []
    best = [
        [curve.label, f"{max(v for *_, v in curve.mrr):.4f}", *_ends(curve)] for curve in curves
    ]
    table = [["run", "best MRR@20", "epochs", "hours"], *best]
    panels = []
    for place, unit in enumerate(("epochs", "hours of training steps")):
        figure = go.Figure()
        for number, curve in enumerate(curves):
            figure.add_scatter(
                x=[point[place] for point in curve.mrr],
                y=[point[2] for point in curve.mrr],
                name=curve.label,
                mode="lines+markers",
                line={"color": COLOURS[number % len(COLOURS)]},
            )
        _style(figure, unit, "validation MRR@20")
        text = f"Accuracy on validation rows of {len(curves)} run(s) against {unit}."
        panels.append(Panel(f"Training by {unit.split()[0]}", text, figure, table))
    return panels


def report_panels(run: Path) -> list[Panel]:
    """What the evaluation of a run has found."""
    report = json.loads((run / REPORT).read_text())
    panels = [accuracy_panel(run.name, report)]
    if report["policy"] is not None and (run / PER_USER).exists():
        keep = pyarrow.parquet.read_table(run / PER_USER, columns=["keep"])["keep"]
        flat = keep.combine_chunks().flatten().to_numpy(zero_copy_only=False)
        panels.append(keep_panel(run.name, flat.reshape(len(keep), -1)))
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
    _style(figure, f"times as fast as all blocks ({what})", "MRR@20")
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
    text = f"Each arm of the evaluation with its 95 % interval; the speedup is in {what}."
    return Panel(f"{name}: accuracy against speed", text, figure, table)


def keep_panel(name: str, keep_RL: NDArray[Any]) -> Panel:
    """Which users keep which blocks; a row of the figure tells its blocks under the pointer."""
    keep_RL = keep_RL.astype(bool)
    num_rows, num_blocks = keep_RL.shape
    order_R = np.lexsort((*keep_RL.T[::-1], keep_RL.sum(1)))[::-1]
    shown = order_R[np.linspace(0, num_rows - 1, min(num_rows, MAX_USERS)).round().astype(int)]
    hover = [f"row {row}: {keep_RL[row].sum()} of {num_blocks} blocks" for row in shown]
    figure = go.Figure(
        go.Heatmap(
            z=keep_RL[shown].astype(int).tolist(),
            x=list(range(1, num_blocks + 1)),
            customdata=[[text] * num_blocks for text in hover],
            hovertemplate="%{customdata}<br>block %{x}: %{z}<extra></extra>",
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
            line={"color": COLOURS[number % len(COLOURS)]},
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
    text = "On the same users; an interval without zero is a difference that is not chance."
    return Panel(f"{name}: paired differences", text, figure, table)


def _ends(curve: Curve) -> list[str]:
    epochs, hours = curve.end
    return [f"{epochs:.1f}", f"{hours:.2f}"]


def _interval(bounds: tuple[float, float]) -> str:
    sign = "+" if bounds[0] < 0 else ""
    return " to ".join(f"{bound:{sign}.4f}" for bound in bounds)


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
        legend={"orientation": "h", "y": -0.25},
        xaxis_title=x,
        yaxis_title=y,
        height=430,
    )


STYLE = """
body { margin: 0 auto; max-width: 70rem; padding: 1rem clamp(0.75rem, 3vw, 2rem); color: #22303c;
  background: #ffffff; font: 1rem/1.45 system-ui, sans-serif; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; margin-bottom: 0.2rem; }
section { margin-bottom: 2rem; } .scroll { overflow-x: auto; }
table { border-collapse: collapse; margin-top: 0.5rem; font-size: 0.9rem; }
th, td { border: 1px solid #c9d1d9; padding: 0.2rem 0.6rem; text-align: left; }
summary { cursor: pointer; } :focus-visible { outline: 3px solid #0b5cad; outline-offset: 2px; }
"""
DRAW = """
for (const place of document.querySelectorAll("[data-figure]")) {
  const { data, layout } = JSON.parse(document.getElementById(place.dataset.figure).textContent);
  Plotly.newPlot(place, data, layout, { responsive: true, displaylogo: false });
}
"""


def as_html(title: str, panels: Sequence[Panel]) -> str:
    """One file with everything in it."""
    sections = "\n".join(_section(number, panel) for number, panel in enumerate(panels))
    if not panels:
        sections = "<p>Nothing was measured yet: no validation and no evaluation.</p>"
    script = f"<script>{get_plotlyjs()}</script>\n<script>{DRAW}</script>" if panels else ""
    return (
        f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'<title>{escape(title)}</title>\n<link rel="icon" href="data:,">\n'
        f"<style>{STYLE}</style>\n</head>\n<body>\n<main>\n<h1>{escape(title)}</h1>\n{sections}\n"
        f"</main>\n{script}\n</body>\n</html>\n"
    )


def _section(number: int, panel: Panel) -> str:
    figure = panel.figure.to_json().replace("</", "<\\/")
    head, *lines = panel.table
    header = "".join(f'<th scope="col">{escape(cell)}</th>' for cell in head)
    body = "".join(
        "<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in line) + "</tr>" for line in lines
    )
    label, title = escape(f"{panel.title}. {panel.text}", quote=True), escape(panel.title)
    return (
        f"<section>\n<h2>{escape(panel.title)}</h2>\n<p>{escape(panel.text)}</p>\n"
        f'<div data-figure="figure-{number}" role="group" aria-label="{label}"></div>\n'
        f'<script type="application/json" id="figure-{number}">{figure}</script>\n'
        f"<details><summary>The numbers of {title}</summary>\n"
        f'<div class="scroll" tabindex="0" role="region" aria-label="{title}, numbers">'
        f"<table><thead><tr>{header}</tr></thead><tbody>{body}</tbody></table></div></details>\n"
        "</section>"
    )
