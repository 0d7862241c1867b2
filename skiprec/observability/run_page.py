"""One page with all that runs have to show: curves, accuracy against time, decisions, differences.

The page is one HTML file that holds its figures and the script that draws them (Plotly), so that it
can be saved and sent. Under each figure a table has its numbers.
"""

import json
import re
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any
from urllib.parse import quote

from plotly.offline import get_plotlyjs

from skiprec.observability.run_panels import (
    REPORT,
    Panel,
    curve_panels,
    report_panels,
    runs_panel,
)

CONFIG = "config.json"
CONTENTS_FROM = 12


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
    """The page of these runs, as they stand on the disk now. A run that cannot be read is named."""
    sections: list[str] = []
    found: list[tuple[str, dict[str, Any]]] = []
    own: list[str] = []
    for run in runs:
        if not (run / REPORT).exists():
            continue
        try:
            report = json.loads((run / REPORT).read_text())
            panels = report_panels(run, report)
        except (KeyError, TypeError, ValueError, OSError) as error:
            own.append(_note(run.name, f"{run / REPORT} cannot be shown: {_why(error)}"))
            continue
        found.append((run.name, report))
        own.append(_statements(run.name, report.get("statements", [])))
        own += [_section(panel) for panel in panels]
    sections += [_section(panel) for panel in curve_panels(runs)]
    if len(found) > 1:
        sections.append(_section(runs_panel(found)))
    title = f"{len(runs)} runs" if len(runs) > 3 else ", ".join(run.name for run in runs)
    return as_html(title, sections + own)


STYLE = """
body { margin: 0 auto; max-width: 70rem; padding: 1rem clamp(0.75rem, 3vw, 2rem); color: #22303c;
  background: #ffffff; font: 1rem/1.45 system-ui, sans-serif; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; margin-bottom: 0.2rem; }
section { margin-bottom: 2rem; } .scroll { overflow-x: auto; }
table { border-collapse: collapse; margin-top: 0.5rem; font-size: 0.9rem; }
th, td { border: 1px solid #c9d1d9; padding: 0.2rem 0.6rem; text-align: left; }
.bad { color: #a3201d; font-weight: 600; }
summary { cursor: pointer; } :focus-visible { outline: 3px solid #0b5cad; outline-offset: 2px; }
"""
DRAW = """
for (const place of document.querySelectorAll(".figure")) {
  const { data, layout } = JSON.parse(place.nextElementSibling.textContent);
  Plotly.newPlot(place, data, layout, { responsive: true, displaylogo: false });
}
"""


def as_html(title: str, sections: Sequence[str]) -> str:
    """One file with everything in it."""
    body = "\n".join([_contents(sections), *sections])
    if not sections:
        body = "<p>Nothing was measured yet: no validation and no evaluation.</p>"
    script = f"<script>{get_plotlyjs()}</script>\n<script>{DRAW}</script>"
    return (
        f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'<title>{escape(title)}</title>\n<link rel="icon" href="data:,">\n'
        f"<style>{STYLE}</style>\n</head>\n<body>\n<main>\n<h1>{escape(title)}</h1>\n{body}\n"
        f"</main>\n{script if sections else ''}\n</body>\n</html>\n"
    )


def _contents(sections: Sequence[str]) -> str:
    """Links to the sections, where there are many."""
    titles = [re.search(r'<h2 id="([^"]*)">(.*?)</h2>', section) for section in sections]
    links = [f'<li><a href="#{one[1]}">{one[2]}</a></li>' for one in titles if one]
    if len(links) < CONTENTS_FROM:
        return ""
    return f"<details><summary>Contents</summary><ul>{''.join(links)}</ul></details>"


def _heading(title: str) -> str:
    return f'<h2 id="{quote(title.replace(" ", "-"))}">{escape(title)}</h2>'


def _note(run: str, text: str) -> str:
    return f'<section>\n{_heading(run)}\n<p class="bad">{escape(text)}</p>\n</section>'


def _why(error: Exception) -> str:
    return f"it has no {error}" if isinstance(error, KeyError) else str(error)


def _statements(run: str, statements: Sequence[str]) -> str:
    """What the report says in words, which the figures must not contradict."""
    lines = "".join(f"<li>{escape(statement)}</li>" for statement in statements)
    return f"<section>\n{_heading(f'{run}: what was found')}\n<ul>{lines}</ul>\n</section>"


def _section(panel: Panel) -> str:
    figure = panel.figure.to_json().replace("</", "<\\/")
    head, *lines = panel.table
    header = "".join(f'<th scope="col">{escape(cell)}</th>' for cell in head)
    body = "".join(
        "<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in line) + "</tr>" for line in lines
    )
    label, title = escape(f"{panel.title}. {panel.text}", quote=True), escape(panel.title)
    return (
        f"<section>\n{_heading(panel.title)}\n<p>{escape(panel.text)}</p>\n"
        f'<div class="figure" role="group" aria-label="{label}"></div>\n'
        f'<script type="application/json">{figure}</script>\n'
        f"<details><summary>The numbers of {title}</summary>\n"
        f'<div class="scroll" tabindex="0" role="region" aria-label="{title}, numbers">'
        f"<table><thead><tr>{header}</tr></thead><tbody>{body}</tbody></table></div></details>\n"
        "</section>"
    )
