"""The command of every study, on small data, produces all rows, the table and the figures."""

import contextlib
import io
import json
import runpy
import shutil
from pathlib import Path
from unittest import mock

import pytest

from cluster.studies.study import load_study
from tests.testkit.runs import REPOSITORY, build_timed_data, metrics_only
from tests.testkit.studies import options_of

STUDIES = {path.stem: load_study(path) for path in (REPOSITORY / "jobs/studies").glob("*.toml")}
RESUMED = "growth"  # its rows start from each other


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of all studies: they share the runs that they have in common, as a user's studies do."""
    folder = tmp_path_factory.mktemp("studies")
    build_timed_data(folder)
    return folder


def in_this_process(name: str, root: Path) -> str:
    """What the command of a study of the repository prints. It starts no Ray.

    Its runs draw no pictures for TensorBoard, which would take longer than all the rest.
    """
    # Studies of the same configurations and settings have runs in common; of others, names alone.
    study = STUDIES[name]
    family = "-".join((Path(study.configs).name, *study.set)).replace("/", "-")
    runs = root / "runs" / (name if name == RESUMED else family)
    options = options_of(name, root, runs, num_workers=0)
    main = runpy.run_path("jobs/run_study.py", run_name="not_main")["main"]
    printed = io.StringIO()
    without_pictures = mock.patch("cluster.training.rank.open_sink", metrics_only)
    with contextlib.redirect_stdout(printed), without_pictures:
        code = main(options)
    assert code == 0, printed.getvalue()[-5000:]
    return printed.getvalue()


@pytest.fixture(autouse=True)
def at_the_root_of_the_repository(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(REPOSITORY)


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(STUDIES))
def test_a_study_s_command_runs_every_row(name: str, root: Path) -> None:
    printed = in_this_process(name, root)
    study = STUDIES[name]
    results = root / name
    table = (results / "table.md").read_text()
    assert table in printed
    assert "not run" not in table
    first_table = table.split("\n\n")[1].splitlines()
    labels = [line.removeprefix("| ").split(" | ")[0] for line in first_table[2:]]
    assert labels == [row.label for row in study.rows]
    found = json.loads((results / "study.json").read_text())["results"]
    assert found.keys() == {row.name for row in study.rows if row.config is not None}
    for (result,) in found.values():
        assert result["conditions"]["rows"] == 40
        assert "mrr@20_interval" in next(iter(result["against_reference"].values()))
    for figure in study.figures:
        assert list(results.glob("*.png")), f"no figure of {figure}"


@pytest.mark.slow
def test_a_study_goes_on_from_its_results_and_trains_again_what_a_run_starts_from(
    root: Path,
) -> None:
    """Only the small results exist, as in a fresh clone, and one of them is missing."""
    in_this_process(RESUMED, root)
    shutil.rmtree(root / "runs" / RESUMED)
    (root / RESUMED / "grow-8-cross-s0.json").unlink()
    printed = in_this_process(RESUMED, root)
    trained = {line.split("]")[0][1:] for line in printed.splitlines() if "] starting" in line}
    assert trained == {"nextitnet_plus-s0", "grow-4-s0", "grow-8-cross-s0"}
    assert "not run" not in (root / RESUMED / "table.md").read_text()
