"""Runs a study: every run without a result, one after the other, then the table.

A run is finished when its small result lies in the study's folder of results. A study that was
interrupted therefore goes on, even from committed results whose runs are gone. The same command in
a second terminal shares the work, because one process at a time holds a run.
"""

import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

from cluster.evaluation.evaluate import evaluate_run
from cluster.machine.session import ray_session
from cluster.runs.folder import RunAliveError, lease
from cluster.studies.results import Run, publish_study, runs_of, write_result
from cluster.studies.study import load_study
from cluster.training.failures import RunFailedError
from cluster.training.launch import launch_training
from skiprec.durable import make_folder
from skiprec.terminal import moving_line, part_of, say

WAIT_S = 20.0


def run_study(
    path: Path,
    results: Path,
    overrides: list[str],
    command: str,
    seeds: tuple[int, ...] = (),
) -> bool:
    """Trains and evaluates the missing runs; writes `table.md` and `study.json` into `results`.

    Args:
        seeds: replace those of the study, unless empty.

    Returns whether every run succeeded.

    Raises:
        ValueError: a mistake that the user can correct.
    """
    study = load_study(path)
    if seeds:
        study = study.model_copy(update={"seeds": seeds})
    runs = runs_of(study, path.parent, overrides)
    make_folder(results)
    missing = _missing(runs, results)
    failed = []
    if missing:
        with ray_session() if any(run.needs_ray for run in missing) else nullcontext():
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
    """Makes the runs one after the other; returns the names of those that failed.

    Runs that another process holds come last.
    """
    failed: list[str] = []
    while pending:
        elsewhere = []
        for number, run in enumerate(pending, 1):
            config = run.config
            if run.is_evaluated and run.is_current(results):
                continue  # another process has made this run since
            if config.init_from in failed:
                failed.append(config.name)
                say(f"[{config.name}] left out: {config.init_from} failed")
                continue
            if not run.can_start:
                elsewhere.append(run)
                continue
            try:
                with part_of(f"run {number} of {len(pending)}"):
                    _run_one(run, results, command)
            except RunAliveError:
                elsewhere.append(run)
            except (RunFailedError, FloatingPointError) as error:  # the latter in this process
                failed.append(config.name)
                say(f"[{config.name}] FAILED: {error}")
            publish()
        pending = elsewhere
        if pending:
            names = ", ".join(run.config.name for run in pending)
            if not any(run.can_start for run in pending):  # no other process makes them
                raise RuntimeError(
                    f"{names}: the runs that these start from are not here, nor in progress"
                )
            say(f"waiting for runs that another process holds: {names}")
            with moving_line(text="waiting"):
                time.sleep(WAIT_S)
    return failed


def _missing(runs: list[Run], results: Path) -> list[Run]:
    """The runs without a result, and the runs that these need and of which only the result is left.

    A run needs the run from which it starts, and the reference of its seed.
    """
    missing: list[Run] = []
    needed: set[str | None] = set()
    for run in reversed(runs):  # a run comes after those that it needs
        name = run.config.name
        if run.is_current(results) and (name not in needed or run.is_evaluated):
            say(f"[{name}] has its result already")
            continue
        if run.result_file(results).exists() and not run.is_current(results):
            say(f"[{name}] has a result of another configuration; made anew")
        missing.append(run)
        needed |= {run.config.init_from, run.reference.name}
    return missing[::-1]


def _run_one(run: Run, results: Path, command: str) -> None:
    config = run.config
    trained = launch_training(config)
    with lease(config):
        if not run.is_evaluated:
            evaluate_run(config, config.folder, command)
    write_result(results, run, trained)
