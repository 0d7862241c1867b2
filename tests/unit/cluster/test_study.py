"""Which runs a study starts, given earlier results, their configurations and run folders."""

import json
from pathlib import Path
from typing import Any

import pytest

from cluster.runs.folder import RunAliveError
from cluster.studies import run as study_run
from cluster.studies.results import Run, runs_of
from cluster.studies.run import _missing, _run_all
from cluster.studies.study import Study
from cluster.training.failures import RunFailedError
from skiprec.config.files import config_hash

ROWS = ("plain", "second", "third", "other")
STARTS_FROM = {"second": "plain", "third": "second"}
STUDY = Study.model_validate(
    {"title": "T", "configs": ".", "rows": [{"label": name, "config": name} for name in ROWS]}
)


@pytest.fixture
def runs(tmp_path: Path) -> list[Run]:
    """Runs `plain` and `other`; `second` starts from `plain`, and `third` from `second`."""
    for name in ROWS:
        start = f"init_from = '{STARTS_FROM[name]}'" if name in STARTS_FROM else ""
        text = f"name = '{name}'\nroot = '{tmp_path / 'runs'}'\n{start}\n[data]\npath = 'data'\n"
        (tmp_path / f"{name}.toml").write_text(text)
    return runs_of(STUDY, tmp_path, [])


def leave_results(folder: Path, runs: list[Run], *names: str, **changes: Any) -> None:
    """Writes the small results of some rows, as if their run folders were gone."""
    for run in runs:
        if run.row.name in names:
            saved = run.config.model_copy(update=changes).model_dump(mode="json")
            earlier = [stage.model_dump(mode="json") for stage in run.earlier]
            result = json.dumps({"config": saved, "earlier": earlier})
            run.result_file(folder).write_text(result)


def leave_folder(run: Run) -> None:
    config = run.config
    config.folder.mkdir(parents=True)
    conditions = {
        "config_hash": config_hash(config),
        "evaluation": config.evaluation.model_dump(mode="json"),
    }
    (config.folder / "report.json").write_text(json.dumps({"conditions": conditions}))


def missing(folder: Path, runs: list[Run]) -> list[str]:
    return [run.row.name for run in _missing(runs, folder)]


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
    report = runs[0].config.folder / "report.json"
    report.write_text(report.read_text().replace('"split": "test"', '"split": "validation"'))
    assert missing(tmp_path, runs) == ["plain", "other"]


def test_a_result_of_another_configuration_is_made_anew(
    tmp_path: Path, runs: list[Run], capsys: pytest.CaptureFixture[str]
) -> None:
    leave_results(tmp_path, runs, *ROWS)
    other_model = runs[0].config.model.model_copy(update={"width": 7})
    leave_results(tmp_path, runs, "other", model=other_model)
    assert missing(tmp_path, runs) == ["plain", "other"]
    assert "[other-s0] has a result of another configuration; made anew" in capsys.readouterr().out


def test_a_second_stage_is_of_its_first_one_s_configuration(
    tmp_path: Path, runs: list[Run]
) -> None:
    """If the first stage changes, the second one runs again, though its own keys are the same."""
    leave_results(tmp_path, runs, *ROWS)
    text = (tmp_path / "plain.toml").read_text()
    (tmp_path / "plain.toml").write_text(text + "[training]\nepochs = 7\n")
    assert missing(tmp_path, runs_of(STUDY, tmp_path, [])) == ["plain", "second", "third"]


@pytest.fixture
def tried(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[Exception | None]]:
    """The outcomes of the attempts of each run; an attempt without an entry succeeds."""
    outcomes: dict[str, list[Exception | None]] = {}

    def run_one(run: Run, results: Path, command: str) -> None:
        left = outcomes.setdefault(run.row.name, [])
        outcome = left.pop(0) if left else None
        if outcome is not None:
            raise outcome
        leave_folder(run)
        (run.config.folder / "result.json").write_text("{}")
        leave_results(results, [run], run.row.name)
        order.append(run.row.name)

    order: list[str] = []
    monkeypatch.setattr(study_run, "_run_one", run_one)
    monkeypatch.setattr(study_run, "WAIT_S", 0.0)
    outcomes["order"] = order  # type: ignore[assignment]
    return outcomes


def test_what_starts_from_a_run_that_another_process_holds_waits(
    tmp_path: Path, runs: list[Run], tried: dict[str, list[Any]]
) -> None:
    tried["plain"] = [RunAliveError("held")]
    assert _run_all(runs, tmp_path, "", lambda: None) == []
    assert tried["order"] == ["other", "plain", "second", "third"]


def test_what_starts_from_a_run_that_failed_is_left_out_and_the_rest_runs(
    tmp_path: Path, runs: list[Run], tried: dict[str, list[Any]]
) -> None:
    tried["second"] = [RunFailedError("broken")]
    assert _run_all(runs, tmp_path, "", lambda: None) == ["second-s0", "third-s0"]
    assert tried["order"] == ["plain", "other"]


def test_a_run_that_nothing_can_start_is_an_error_and_not_waited_for(
    tmp_path: Path, runs: list[Run], tried: dict[str, list[Any]]
) -> None:
    second = [run for run in runs if run.row.name == "second"]
    with pytest.raises(RuntimeError, match="second-s0: the runs that these start from"):
        _run_all(second, tmp_path, "", lambda: None)
