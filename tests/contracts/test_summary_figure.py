"""The summary of the published studies: its figure and its numbers are those of their tables."""

import json
import re
import runpy
import shutil
from pathlib import Path

import pytest

from tests.testkit.repository import ROOT

SCRIPT = runpy.run_path(str(ROOT / "benchmarks/draw_summary.py"))
STUDIES = SCRIPT["STUDIES"]
WANTED = [wanted for panel in SCRIPT["PANELS"] for wanted in panel.lines]
INTERVAL = re.compile(r"([+-])0?(\.\d{4}) \[([+-])0?(\.\d{4}), ([+-])0?(\.\d{4})\]")
# Runs that a later run of the same study replaced; the summary quotes them to show the spread.
REPLACED = {"+.0004 [-.0022, +.0029]", "+.0113 [+.0031, +.0198]"}


def intervals_in(text: str) -> set[str]:
    """Every difference with its interval, written without the zero before the point."""
    return {
        "{}{} [{}{}, {}{}]".format(*found) for found in INTERVAL.findall(" ".join(text.split()))
    }


def table_line(wanted: object, studies: Path = STUDIES) -> str:
    """The lines of the study's table that show a run."""
    label = json.loads((studies / wanted.study / f"{wanted.run}-s0.json").read_text())["label"]
    lines = (studies / wanted.study / "table.md").read_text().splitlines()
    return "\n".join(line for line in lines if line.startswith(f"| {label} |"))


def as_text(estimate: object) -> str:
    return f"{estimate.mean:+.4f} [{estimate.low:+.4f}, {estimate.high:+.4f}]"


@pytest.mark.parametrize("wanted", WANTED, ids=lambda wanted: f"{wanted.study}/{wanted.run}")
def test_a_line_of_the_figure_has_the_numbers_of_its_table(wanted: object) -> None:
    line = SCRIPT["read_line"](wanted)
    shown = table_line(wanted)
    assert as_text(line.minus_backbone) in shown
    if line.minus_shuffled is not None:
        assert as_text(line.minus_shuffled) in shown


def test_the_figure_draws_each_estimate_once() -> None:
    panels = SCRIPT["read_panels"]()
    figure = SCRIPT["summary_figure"](panels)
    points = [
        round(float(line.get_xdata()[0]), 7)
        for axes in figure.axes
        for line in axes.get_lines()
        if line.get_marker() == "o"
    ]
    texts = [text.get_text() for axes in figure.axes for text in axes.texts]
    for _, lines in panels:
        for estimate in (e for x in lines for e in (x.minus_backbone, x.minus_shuffled) if e):
            number = f"{estimate.mean:+.3f}"
            is_a_number = any(text.startswith(number) for text in texts)
            assert round(estimate.mean, 7) in points or is_a_number
    labels = [label.get_text() for axes in figure.axes for label in axes.get_yticklabels()]
    assert labels == [wanted.label for wanted in WANTED]


def test_a_run_that_was_never_paired_is_refused(tmp_path: Path) -> None:
    """The control: the numbers are read from the results, not from anywhere else."""
    wanted = next(wanted for wanted in WANTED if wanted.seeds == 1)
    shutil.copytree(STUDIES / wanted.study, tmp_path / wanted.study)
    file = tmp_path / wanted.study / f"{wanted.run}-s0.json"
    result = json.loads(file.read_text())
    result["against_reference"]["skiprec"]["mrr@20"] += 0.01
    file.write_text(json.dumps(result))
    assert as_text(SCRIPT["read_line"](wanted, tmp_path).minus_backbone) not in table_line(wanted)
    del result["against_reference"]
    file.write_text(json.dumps(result))
    with pytest.raises(ValueError, match="run the study again"):
        SCRIPT["read_line"](wanted, tmp_path)


def test_every_interval_of_the_summary_stands_in_a_table() -> None:
    tables = "\n".join(path.read_text() for path in STUDIES.glob("*/*.md"))
    summary = intervals_in((STUDIES / "README.md").read_text())
    assert len(summary) >= 30
    assert summary - intervals_in(tables) - REPLACED == set()
    assert intervals_in("+.1234 [-.0001, +0.2000]") - intervals_in(tables), "the control"


def test_the_summary_shows_a_small_figure_and_its_command() -> None:
    text = (STUDIES / "README.md").read_text()
    assert f"({SCRIPT['PICTURE'].name})" in text
    assert "python benchmarks/draw_summary.py" in text
    assert SCRIPT["PICTURE"].stat().st_size < 100_000
