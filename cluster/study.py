"""Runs a study: every run that has no result yet, one after the other, then the table.

A run is finished when its small result lies in the study's folder of results. So a study that was
cut off goes on, also from results that were committed while the runs themselves are gone; and the
same command in a second terminal shares the work, since a run is held by one process at a time.
"""

import json
import time
from collections.abc import Callable
from pathlib import Path

import ray.train

from cluster.evaluate import evaluate_run
from cluster.run_folder import RunAliveError, lease
from cluster.session import ray_session
from cluster.study_results import Run, publish_study, result_file, write_result
from cluster.train import launch_training
from skiprec.config import RunConfig
from skiprec.config_files import config_hash
from skiprec.evaluation.study import Study, load_study, study_runs

WAIT_S = 20.0


def run_study(
    path: Path,
    results: Path,
    overrides: list[str],
    command: str,
    seeds: tuple[int, ...] = (),
) -> bool:
    """Trains and evaluates what is missing; writes `table.md` and `study.json` into `results`.

    Args:
        seeds: instead of the study's own, unless empty.

    Returns whether every run succeeded.

    Raises:
        ValueError: anything a user can mend.
    """
    study = load_study(path)
    if seeds:
        study = study.model_copy(update={"seeds": seeds})
    runs = study_runs(study, path.parent, overrides)
    results.mkdir(parents=True, exist_ok=True)
    missing = _missing(study, runs, results)
    failed = []
    if missing:
        with ray_session():
            failed = _run_all(
                missing,
                results,
                command,
                lambda: publish_study(study, runs, results, overrides, command),
            )
    publish_study(study, runs, results, overrides, command)
    return not failed


def _run_all(
    pending: list[Run], results: Path, command: str, publish: Callable[[], None]
) -> list[str]:
    """One after the other; those that another process holds come last. Returns what failed."""
    failed: list[str] = []
    while pending:
        elsewhere = []
        for run in pending:
            config = run[2]
            if _is_evaluated(config) and _is_current(result_file(results, config), config):
                continue  # by another process, since
            try:
                _run_one(run, results, command)
            except RunAliveError:
                elsewhere.append(run)
            except ray.train.TrainingFailedError as error:
                failed.append(config.name)
                print(f"[{config.name}] FAILED: {error}", flush=True)
            publish()
        pending = elsewhere
        if pending:
            names = ", ".join(config.name for _, _, config in pending)
            print(f"waiting for runs that another process holds: {names}", flush=True)
            time.sleep(WAIT_S)
    return failed


def _missing(study: Study, runs: list[Run], results: Path) -> list[Run]:
    """The runs without a result, and those that these need although only their result is left.

    A run needs the one it starts from and the reference of its seed, with which it is paired.
    """
    missing: list[Run] = []
    needed: set[str | None] = set()
    for run in reversed(runs):  # a run starts from one before it
        _, seed, config = run
        is_current = _is_current(result_file(results, config), config)
        if is_current and (config.name not in needed or _is_evaluated(config)):
            print(f"[{config.name}] has its result already", flush=True)
            continue
        missing.append(run)
        needed |= {config.init_from, f"{study.reference}-s{seed}"}
    return missing[::-1]


def _is_evaluated(config: RunConfig) -> bool:
    """Whether the run's report is there, made with these settings; another study may have."""
    report = config.folder / "report.json"
    if not report.exists():
        return False
    conditions = json.loads(report.read_text())["conditions"]
    found = (conditions["config_hash"], conditions.get("evaluation"))
    return found == (config_hash(config), config.evaluation.model_dump(mode="json"))


def _run_one(run: Run, results: Path, command: str) -> None:
    config = run[2]
    trained = launch_training(config)
    with lease(config):
        if not _is_evaluated(config):
            evaluate_run(config, config.folder, command)
    write_result(results, run, trained)


def _is_current(file: Path, config: RunConfig) -> bool:
    """Whether a result is of this configuration, its evaluation included."""
    if not file.exists():
        return False
    saved = RunConfig.model_validate(json.loads(file.read_text())["config"])
    same = config_hash(saved) == config_hash(config) and saved.evaluation == config.evaluation
    if not same:
        print(f"[{config.name}] {file.name} is of another configuration; made anew", flush=True)
    return same
