"""The figures of a run's page have the numbers of its report: a report made by hand."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from skiprec.observability.run_page import run_page
from skiprec.observability.run_panels import (
    MAX_USERS,
    Panel,
    accuracy_panel,
    curve_panels,
    difference_panel,
    keep_panel,
    length_panel,
    runs_panel,
)


def row(name: str, mrr: float | None, low: float, high: float, **speeds: float) -> dict[str, Any]:
    none = {"speedup_end_to_end": None, "speedup_flops": None}
    return none | {"name": name, "mrr@20": mrr, "mrr@20_interval": (low, high)} | speeds


ROWS = [
    row("popularity", 0.05, 0.04, 0.06),
    row("all_blocks", 0.30, 0.28, 0.33, speedup_flops=1.0, speedup_end_to_end=1.0),
    row("skiprec", 0.29, 0.27, 0.30, speedup_flops=3.0, speedup_end_to_end=2.5),
]


def traces(panel: Panel) -> list[Any]:
    return list(panel.figure.data)


@pytest.mark.parametrize(("timing", "speeds"), [(True, [1.0, 2.5]), (None, [1.0, 3.0])])
def test_an_arm_stands_at_its_speed_and_accuracy(timing: Any, speeds: list[float]) -> None:
    panel = accuracy_panel("run", {"rows": ROWS, "timing": timing})
    found = traces(panel)
    assert [one.name for one in found] == ["all_blocks", "skiprec"]
    assert [one.x[0] for one in found] == speeds
    assert [one.y[0] for one in found] == [0.30, 0.29]
    assert found[0].error_y.array[0] == pytest.approx(0.03)
    assert found[0].error_y.arrayminus[0] == pytest.approx(0.02)
    assert panel.table[1:] == [
        ["all_blocks", "0.3000", "0.2800 to 0.3300", "1.00"],
        ["skiprec", "0.2900", "0.2700 to 0.3000", f"{speeds[1]:.2f}"],
    ]
    assert ("measured time" in panel.text) == bool(timing)


def test_several_runs_stand_over_each_other_with_their_own_numbers() -> None:
    others = [ROWS[0], row("full_backbone", 0.31, 0.30, 0.32)]
    panel = runs_panel([("one", {"rows": ROWS}), ("two", {"rows": others})])
    every, policy = traces(panel)
    assert (list(every.y), list(every.x)) == (["one", "two"], [0.30, 0.31])
    assert (list(policy.y), list(policy.x)) == (["one"], [0.29])
    assert ["two", "all blocks", "0.3100", "0.3000 to 0.3200"] in panel.table


def test_a_row_of_the_keep_map_is_a_user_and_dark_is_a_block_that_ran() -> None:
    keep_RL = np.array([[1, 0, 0], [1, 1, 1], [1, 1, 0]], bool)
    panel = keep_panel("run", keep_RL, np.array([5, 7, 9]))
    (heat,) = traces(panel)
    assert [list(line) for line in heat.z] == [[1, 1, 1], [1, 1, 0], [1, 0, 0]]
    assert [line[0] for line in heat.customdata] == [
        "history of 7: 3 of 3 blocks",
        "history of 9: 2 of 3 blocks",
        "history of 5: 1 of 3 blocks",
    ]
    skipped, kept = (colour for _, colour in heat.colorscale)
    assert sum(bytes.fromhex(kept[1:])) < sum(bytes.fromhex(skipped[1:])), "dark where it ran"
    assert panel.table[1:] == [["1", "1"], ["2", "1"], ["3", "1"]]
    assert "3 distinct decisions, 2.0 of 3 blocks on average" in panel.text


def test_of_many_rows_some_are_shown_from_the_deepest_to_the_shallowest() -> None:
    keep_RL = np.tril(np.ones((2000, 2000), bool))[:, :8]
    (heat,) = traces(keep_panel("run", keep_RL, np.arange(2000)))
    sizes = [sum(line) for line in heat.z]
    assert len(sizes) == MAX_USERS
    assert sizes == sorted(sizes, reverse=True)
    assert (sizes[0], sizes[-1]) == (8, 1)


def test_lengths_have_the_accuracy_of_their_rows() -> None:
    value = {"mrr@20": 0.2, "mrr@20_interval": (0.1, 0.4)}
    lines = [
        {"from": 1, "to": 4, "rows": 10, "accuracy": {"skiprec": value}},
        {"from": 5, "to": None, "rows": 20, "accuracy": {"skiprec": value | {"mrr@20": 0.3}}},
    ]
    panel = length_panel("run", lines)
    (trace,) = traces(panel)
    assert (list(trace.x), list(trace.y)) == (["1 to 4", "5 or more"], [0.2, 0.3])
    assert list(trace.error_y.array) == pytest.approx([0.2, 0.1])
    assert panel.table[1:] == [["1 to 4", "10", "0.2000"], ["5 or more", "20", "0.3000"]]


def test_differences_keep_their_sign() -> None:
    one = {"of": "skiprec", "minus": "fixed", "mrr@20": -0.01, "mrr@20_interval": (-0.03, 0.02)}
    panel = difference_panel("run", [one])
    (trace,) = traces(panel)
    assert (trace.x[0], trace.y[0]) == (-0.01, "skiprec less fixed")
    assert (trace.error_x.array[0], trace.error_x.arrayminus[0]) == pytest.approx((0.03, 0.02))
    assert panel.table[1] == ["skiprec less fixed", "-0.0100", "-0.0300 to +0.0200"]


def write_run(folder: Path, mrr: list[float], rest: str = "") -> Path:
    folder.mkdir()
    lines = []
    for step, value in enumerate(mrr, start=1):
        log = {"step": step, "train/loss": 1.0, "time/step_s": 1800.0, "progress/epoch": step / 2}
        lines += [log, {"step": step, "validation/mrr@20": value}]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(one) + "\n" for one in lines) + rest)
    (folder / "config.json").write_text("{}")
    return folder


def test_curves_are_those_of_their_runs_and_end_where_a_line_is_torn(tmp_path: Path) -> None:
    runs = [
        write_run(tmp_path / "a", [0.1, 0.3]),
        write_run(tmp_path / "b", [0.2], '{"step": 9, "va'),
    ]
    by_epochs, by_minutes = curve_panels(runs)
    a, b = traces(by_epochs)
    assert (list(a.x), list(a.y), list(b.x), list(b.y)) == ([0.5, 1.0], [0.1, 0.3], [0.5], [0.2])
    assert list(traces(by_minutes)[0].x) == [30, 60]
    assert by_epochs.table[1:] == [["a", "0.3000", "1.0", "60.0"], ["b", "0.2000", "0.5", "30.0"]]


def test_more_runs_than_colours_differ_by_their_dashes(tmp_path: Path) -> None:
    runs = [write_run(tmp_path / str(number), [0.1]) for number in range(20)]
    lines = {(one.line.color, one.line.dash) for one in traces(curve_panels(runs)[0])}
    assert len(lines) == 20


@pytest.mark.parametrize(
    ("report", "message"),
    [("{", "Expecting"), ("{}", "it has no"), ("[]", ""), ('{"rows": 3}', "")],
)
def test_a_run_that_cannot_be_read_is_named_and_the_others_are_shown(
    tmp_path: Path, report: str, message: str
) -> None:
    write_run(tmp_path / "good", [0.1])
    (write_run(tmp_path / "bad", [0.2]) / "report.json").write_text(report)
    page = run_page([tmp_path / "good", tmp_path / "bad"])
    assert "bad/report.json cannot be shown: " + message in page
    assert "Training by epochs" in page


def test_the_page_says_what_the_report_found(tmp_path: Path) -> None:
    report = {
        "rows": ROWS,
        "timing": None,
        "policy": None,
        "differences": [],
        "statements": ["The per-user part is NOT shown."],
    }
    (write_run(tmp_path / "run", [0.1]) / "report.json").write_text(json.dumps(report))
    page = run_page([tmp_path / "run"])
    assert page.index("The per-user part is NOT shown.") < page.index("run: accuracy against speed")
