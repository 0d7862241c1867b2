"""What a study runs, from what it finds: results, their configurations, and run folders."""

import json
from pathlib import Path
from typing import Any

import pytest

from cluster.study import _missing
from skiprec.config import RunConfig
from skiprec.config_files import config_hash
from skiprec.evaluation.study import Study, StudyRow

ROWS = ("plain", "second", "third", "other")
STARTS_FROM = {"second": "plain-s0", "third": "second-s0"}
STUDY = Study.model_validate(
    {
        "title": "T",
        "configs": "c",
        "reference": "plain",
        "rows": [{"label": name, "config": name} for name in ROWS],
    }
)

Run = tuple[StudyRow, int, RunConfig]


@pytest.fixture
def runs(tmp_path: Path) -> list[Run]:
    """plain; second starts from plain, third from second; other from nothing."""

    def config(name: str) -> RunConfig:
        return RunConfig.model_validate(
            {
                "name": f"{name}-s0",
                "root": str(tmp_path / "runs"),
                "init_from": STARTS_FROM.get(name),
                "data": {"path": "data"},
            }
        )

    return [(row, 0, config(row.name)) for row in STUDY.rows]


def leave_results(folder: Path, runs: list[Run], *names: str, **changes: Any) -> None:
    """The small results of some rows, as if their run folders were gone."""
    for row, _, config in runs:
        if row.name in names:
            saved = config.model_copy(update=changes).model_dump(mode="json")
            (folder / f"{config.name}.json").write_text(json.dumps({"config": saved}))


def leave_folder(run: Run) -> None:
    config = run[2]
    config.folder.mkdir(parents=True)
    conditions = {
        "config_hash": config_hash(config),
        "evaluation": config.evaluation.model_dump(mode="json"),
    }
    (config.folder / "report.json").write_text(json.dumps({"conditions": conditions}))


def missing(folder: Path, runs: list[Run]) -> list[str]:
    return [row.name for row, _, _ in _missing(STUDY, runs, folder)]


def test_all_rows_run_in_their_order_when_there_is_nothing(tmp_path: Path, runs: list[Run]) -> None:
    assert missing(tmp_path, runs) == list(ROWS)


def test_nothing_runs_when_every_result_is_there(tmp_path: Path, runs: list[Run]) -> None:
    leave_results(tmp_path, runs, *ROWS)
    assert missing(tmp_path, runs) == []


def test_what_a_run_starts_from_and_its_reference_run_again_and_no_more(
    tmp_path: Path, runs: list[Run]
) -> None:
    leave_results(tmp_path, runs, "plain", "second", "third")
    assert missing(tmp_path, runs) == ["plain", "other"]
    leave_results(tmp_path, runs, "other")
    (tmp_path / "third-s0.json").unlink()
    assert missing(tmp_path, runs) == ["plain", "second", "third"]


def test_a_run_whose_folder_is_there_does_not_run_again(tmp_path: Path, runs: list[Run]) -> None:
    leave_results(tmp_path, runs, "plain", "second", "third")
    leave_folder(runs[0])
    assert missing(tmp_path, runs) == ["other"]


def test_a_folder_that_was_evaluated_otherwise_does_not_count(
    tmp_path: Path, runs: list[Run]
) -> None:
    leave_results(tmp_path, runs, "plain", "second", "third")
    leave_folder(runs[0])
    report = runs[0][2].folder / "report.json"
    report.write_text(report.read_text().replace('"split": "test"', '"split": "validation"'))
    assert missing(tmp_path, runs) == ["plain", "other"]


def test_a_result_of_another_configuration_is_made_anew(
    tmp_path: Path, runs: list[Run], capsys: pytest.CaptureFixture[str]
) -> None:
    leave_results(tmp_path, runs, *ROWS)
    leave_results(tmp_path, runs, "other", init_from="plain-s0")
    assert missing(tmp_path, runs) == ["plain", "other"]
    assert "other-s0.json is of another configuration; made anew" in capsys.readouterr().out
