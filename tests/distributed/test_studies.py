"""The command of every study, on small data, produces all rows, the table and the figures."""

import contextlib
import io
import json
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from cluster.studies.study import load_study
from tests.testkit.runs import REPOSITORY, build_smoke_data

STUDIES = {path.stem: load_study(path) for path in (REPOSITORY / "jobs/studies").glob("*.toml")}
# Of a study with several seeds one is run; depth stays, since that is what rows differ in.
ON_RAY = "growth"  # the others stay in the test's process: a worker takes seconds to start
SMALL = (
    "model.width=8",
    "training.epochs=0.99",
    "training.validate_every_steps=4",
    "training.engine=torch",
    "evaluation.max_rows=40",
    "evaluation.timing_batches=[]",
)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of all studies: they share the runs that they have in common, as a user's studies do."""
    folder = tmp_path_factory.mktemp("studies")
    build_smoke_data(folder)
    return folder


def run_study(name: str, root: Path, *more: str) -> str:
    """What the command of a study prints. One study runs on Ray, in a process of its own."""
    # Studies of the same configurations have runs in common; of others, names alone.
    runs = root / "runs" / (name if name == ON_RAY else Path(STUDIES[name].configs).name)
    places = (f"data.path={root / 'data'}", f"root={runs}")
    workers = int(name == ON_RAY)
    crews = (f"cluster.num_workers={workers}", f"evaluation.num_workers={workers}")
    settings = [part for key in (*places, *crews, *SMALL) for part in ("--set", key)]
    options = ["--study", name, "--results", str(root / name), "--seeds", "0", *settings, *more]
    return in_a_process(options) if name == ON_RAY else in_this_process(options)


def in_this_process(options: list[str]) -> str:
    main = runpy.run_path("jobs/run_study.py", run_name="not_main")["main"]
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        code = main(options)
    assert code == 0, printed.getvalue()[-5000:]
    return printed.getvalue()


def in_a_process(options: list[str]) -> str:
    done = subprocess.run(
        [sys.executable, "jobs/run_study.py", *options],
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=1200,
    )
    assert done.returncode == 0, done.stdout[-5000:]
    return done.stdout


@pytest.fixture(autouse=True)
def at_the_root_of_the_repository(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(REPOSITORY)


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(STUDIES))
def test_a_study_s_command_runs_every_row(name: str, root: Path) -> None:
    printed = run_study(name, root)
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
    run_study(ON_RAY, root)
    shutil.rmtree(root / "runs" / ON_RAY)
    (root / ON_RAY / "grow-8-cross-s0.json").unlink()
    printed = run_study(ON_RAY, root)
    trained = {line.split("]")[0][1:] for line in printed.splitlines() if "] starting" in line}
    assert trained == {"nextitnet_plus-s0", "grow-4-s0", "grow-8-cross-s0"}
    assert "not run" not in (root / ON_RAY / "table.md").read_text()
