"""The tables of docs/benchmarks/studies are what their small results give, with today's code."""

import json
import shlex
import shutil
from pathlib import Path

import pytest
from pydantic import TypeAdapter

from cluster.studies.results import publish_study, runs_of
from cluster.studies.schema import StudyResult
from cluster.studies.study import load_study
from tests.testkit.runs import REPOSITORY

STUDIES = REPOSITORY / "jobs/studies"
PUBLISHED = sorted((REPOSITORY / "docs/benchmarks/studies").glob("*/table.md"))
# `study.json` is what a study leaves beside its small results; git ignores it.
RESULTS = sorted(
    path for path in (REPOSITORY / "docs/benchmarks").glob("**/*.json") if path.name != "study.json"
)
COMMAND = "- command: `"


def values_of(words: list[str], option: str) -> list[str]:
    """What follows an option, up to the next one."""
    found: list[str] = []
    for place, word in enumerate(words):
        if word == option:
            for value in words[place + 1 :]:
                if value.startswith("--"):
                    break
                found.append(value)
    return found


@pytest.mark.parametrize("table", PUBLISHED, ids=lambda path: path.parent.name)
def test_a_published_table_is_made_of_its_results(
    table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = table.read_text()
    (line,) = (line for line in text.splitlines() if line.startswith(COMMAND))
    command = line.removeprefix(COMMAND).rstrip("`")
    words = shlex.split(command)
    path = STUDIES / f"{values_of(words, '--study')[0]}.toml"
    study = load_study(path)
    if seeds := values_of(words, "--seeds"):
        study = study.model_copy(update={"seeds": tuple(map(int, seeds))})
    overrides = values_of(words, "--set")
    results = tmp_path / "results"
    shutil.copytree(table.parent, results)
    monkeypatch.chdir(tmp_path)  # where no run is, so that nothing is paired anew
    publish_study(study, runs_of(study, path.parent, overrides), results, overrides, command)
    assert (results / "table.md").read_text() == text


def test_a_published_result_has_the_shape_of_its_schema() -> None:
    adapter = TypeAdapter(StudyResult)
    assert RESULTS
    for path in RESULTS:
        adapter.validate_json(path.read_text(), strict=True)
        assert json.loads(path.read_text()).keys() >= StudyResult.__required_keys__
