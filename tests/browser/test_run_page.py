"""The page of a run: figures of what was measured, in one file that needs no network."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from cluster.evaluation.evaluate import evaluate_run
from cluster.training.launch import launch_training
from skiprec.config.run import backbone_config
from skiprec.observability.run_page import find_runs, run_page
from tests.testkit.browser import opened, violations
from tests.testkit.repository import ROOT
from tests.testkit.runs import build_smoke_data, smoke_config

HERE = ("training.engine=torch", "cluster.num_workers=0", "evaluation.num_workers=0")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of two runs: one with a policy that was evaluated, one that was only trained."""
    root = tmp_path_factory.mktemp("runs")
    data = build_smoke_data(root / "data-of-them")
    quick = ("training.epochs=1", "evaluation.timing_batches=[1]", "evaluation.timing_repeats=20")
    config = smoke_config(root, data, *HERE, *quick, "name=with-policy")
    launch_training(config)
    evaluate_run(config, config.folder, "a test")
    launch_training(backbone_config(config).model_copy(update={"name": "other"}))
    return root


TITLES = [
    "Training by epochs",
    "Training by minutes",
    "with-policy: what was found",
    "with-policy: accuracy against speed",
    "with-policy: who gets depth",
    "with-policy: by length of the history",
    "with-policy: paired differences",
]


def texts_that_collide(page: Any) -> list[str]:
    """Titles, names and ticks of figures that lie over each other or beyond their figure."""
    found: list[str] = page.evaluate(
        """() => [...document.querySelectorAll(".figure")].flatMap((figure) => {
          const own = figure.getBoundingClientRect();
          const selector = ".xtitle, .ytitle, .legendtext, .xtick text, .ytick text";
          const boxes = [...figure.querySelectorAll(selector)]
            .filter((text) => text.textContent.trim())
            .map((text) => [text.textContent, text.getBoundingClientRect()]);
          const bad = [];
          boxes.forEach(([name, a], place) => {
            if (a.left < own.left - 1 || a.right > own.right + 1) bad.push(`beyond: ${name}`);
            boxes.slice(place + 1).forEach(([other, b]) => {
              const wide = Math.min(a.right, b.right) - Math.max(a.left, b.left);
              const high = Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top);
              if (wide > 2 && high > 2) bad.push(`${name} over ${other}`);
            });
          });
          return bad;
        })"""
    )
    return found


@pytest.mark.parametrize("width", ["desktop", "phone"])
def test_a_saved_page_shows_everything_without_a_network(
    runs: Path, tmp_path: Path, chromium: Any, width: str
) -> None:
    file = tmp_path / "page.html"
    command = [sys.executable, "jobs/show_run.py", "--run", str(runs), "--output", str(file)]
    subprocess.run(command, cwd=ROOT, check=True)
    with opened(chromium, file.as_uri(), width) as watched:
        page = watched.page
        page.wait_for_function("document.querySelectorAll('.main-svg').length >= 6")
        assert page.locator("h2").all_inner_texts() == TITLES
        watched.assert_clean()
        assert texts_that_collide(page) == []
        assert violations(page) == []
        # The control: text that can hardly be seen is found.
        page.evaluate("document.querySelector('section p').style.color = '#bbbbbb'")
        assert "color-contrast" in " ".join(violations(page))


def test_numbers_are_reached_with_the_keyboard(runs: Path, tmp_path: Path, chromium: Any) -> None:
    file = tmp_path / "page.html"
    file.write_text(run_page(find_runs([runs])))
    with opened(chromium, file.as_uri()) as watched:
        page = watched.page
        summary = page.get_by_text("The numbers of with-policy: accuracy against speed")
        summary.press("Enter")
        table = page.get_by_role("table").filter(has_text="skiprec")
        table.wait_for()
        report = json.loads((runs / "with-policy/report.json").read_text())
        (own,) = (row for row in report["rows"] if row["name"] == "skiprec")
        line = table.get_by_role("row").filter(has_text="skiprec").inner_text()
        assert f"{own['mrr@20']:.4f}" in line
        assert f"{own['speedup_end_to_end']:.2f}" in line
        watched.assert_clean()


def test_the_keep_map_tells_the_blocks_of_a_row_under_the_pointer(
    runs: Path, tmp_path: Path, chromium: Any
) -> None:
    file = tmp_path / "page.html"
    file.write_text(run_page(find_runs([runs / "with-policy"])))
    with opened(chromium, file.as_uri()) as watched:
        page = watched.page
        section = page.locator("section").filter(has_text="who gets depth")
        plot = section.locator(".nsewdrag").first
        plot.scroll_into_view_if_needed()
        plot.hover()
        page.locator(".hoverlayer").get_by_text("blocks").first.wait_for()
        watched.assert_clean()


def test_the_server_follows_a_folder_that_grows(runs: Path, chromium: Any) -> None:
    command = [sys.executable, "jobs/show_run.py", "--run", str(runs / "other"), "--port", "0"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        address = process.stdout.readline().split(" at ")[1].split()[0]
        try:
            with opened(chromium, f"{address}/") as watched:
                page = watched.page
                page.wait_for_function("document.querySelectorAll('.main-svg').length >= 2")
                assert page.locator("h2").all_inner_texts() == TITLES[:2]
                (runs / "other/metrics.jsonl").rename(runs / "other/gone.jsonl")
                page.reload()
                page.get_by_text("Nothing was measured yet").wait_for()
                (runs / "other/gone.jsonl").rename(runs / "other/metrics.jsonl")
                watched.assert_clean()
        finally:
            process.terminate()


def test_a_folder_without_runs_is_told(tmp_path: Path) -> None:
    command = [sys.executable, "jobs/show_run.py", "--run", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2
    assert "neither is nor holds a run (no config.json)" in done.stderr
