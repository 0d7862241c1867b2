"""Runs a study: every run that has no result yet, one after the other, then the table.

A run is finished when its small result lies in the study's folder of results. So a study that was
cut off goes on, also from results that were committed while the runs themselves are gone; and the
same command in a second terminal shares the work, since a run is held by one process at a time.
"""

import json
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import ray.train

from cluster.checkpoint import write_text_durably
from cluster.evaluate import evaluate_run
from cluster.run_folder import RunAliveError, lease
from cluster.session import ray_session
from cluster.train import launch_training
from skiprec.config import RunConfig
from skiprec.config_files import config_hash
from skiprec.evaluation.study import Study, StudyRow, load_study, result_of_run, study_runs
from skiprec.evaluation.study_table import Results, against, study_markdown
from skiprec.observability.curves import (
    Curve,
    convergence_figure,
    depth_figure,
    read_curve,
)
from skiprec.observability.tensorboard import write_convergence

Run = tuple[StudyRow, int, RunConfig]
Record = dict[str, Any]

WAIT_S = 20.0
POLICY_PICTURES = ("keep_heat_map.png", "block_keep_rates.png", "frontier.png")


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
    failed: list[str] = []
    pending = _missing(study, runs, results)
    with ray_session():
        while pending:
            elsewhere = []
            for run in pending:
                config = run[2]
                if _is_evaluated(config) and _is_current(_result_file(results, config), config):
                    continue  # by another process, since
                try:
                    _run_one(run, results, command)
                except RunAliveError:
                    elsewhere.append(run)
                except ray.train.TrainingFailedError as error:
                    failed.append(config.name)
                    print(f"[{config.name}] FAILED: {error}", flush=True)
                _publish(study, runs, results, overrides, command)
            pending = elsewhere
            if pending:
                names = ", ".join(config.name for _, _, config in pending)
                print(f"waiting for runs that another process holds: {names}", flush=True)
                time.sleep(WAIT_S)
    _publish(study, runs, results, overrides, command)
    return not failed


def _missing(study: Study, runs: list[Run], results: Path) -> list[Run]:
    """The runs without a result, and those that these need although only their result is left.

    A run needs the one it starts from and the reference of its seed, with which it is paired.
    """
    missing: list[Run] = []
    needed: set[str | None] = set()
    for run in reversed(runs):  # a run starts from one before it
        _, seed, config = run
        is_current = _is_current(_result_file(results, config), config)
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
    row, seed, config = run
    trained = launch_training(config)
    with lease(config):
        if not _is_evaluated(config):
            evaluate_run(config, config.folder, command)
    report = json.loads((config.folder / "report.json").read_text())
    extra: Record = {
        "row": row.name,
        "label": row.label,
        "seed": seed,
        "config": config.model_dump(mode="json", exclude_none=True, exclude={"root"}),
        "trained_by": json.loads((config.folder / "run.json").read_text()),
        "training": {
            "steps": trained["steps"],
            "best_step": trained["best_step"],
            "best_mrr@20": trained["best_mrr@20"],
            "minutes": _training_minutes(config),
        },
    }
    _write(_result_file(results, config), result_of_run(report, extra))


def _is_current(file: Path, config: RunConfig) -> bool:
    """Whether a result is of this configuration, its evaluation included."""
    if not file.exists():
        return False
    saved = RunConfig.model_validate(json.loads(file.read_text())["config"])
    same = config_hash(saved) == config_hash(config) and saved.evaluation == config.evaluation
    if not same:
        print(f"[{config.name}] {file.name} is of another configuration; made anew", flush=True)
    return same


def _result_file(results: Path, config: RunConfig) -> Path:
    return results / f"{config.name}.json"


def _training_minutes(config: RunConfig) -> float:
    """Of training steps alone, as the convergence curves count them."""
    curve = read_curve(config.folder / "metrics.jsonl", config.name)
    return round(60 * curve.end[1], 2)


def _publish(
    study: Study, runs: list[Run], results: Path, overrides: list[str], command: str
) -> None:
    """Pairs what can be paired, then writes the table, the JSON and the figures anew."""
    found: Results = {}
    for row, seed, config in runs:
        file = _result_file(results, config)
        if file.exists():
            result = json.loads(file.read_text())
            _pair(study, seed, config, result, file)
            found.setdefault(row.name, []).append(result)
    notes = _notes(found, overrides, command)
    write_text_durably(results / "table.md", study_markdown(study, found, notes))
    table = {"title": study.title, "seeds": list(study.seeds), "results": found}
    write_text_durably(results / "study.json", json.dumps(table, indent=1))
    if "convergence" in study.figures:
        _draw_convergence(runs, results)
    if "policies" in study.figures:
        _copy_pictures(runs, results)
    if "depth" in study.figures and found:
        points = [
            _depth_point(row.label, found[row.name]) for row, _, _ in runs if row.name in found
        ]
        depth_figure(points).savefig(results / "depth.png")


def _pair(study: Study, seed: int, config: RunConfig, result: Record, file: Path) -> None:
    """Adds the differences to the reference of the same seed, while both evaluations are there."""
    reference = Path(config.root) / f"{study.reference}-s{seed}" / "per_user.parquet"
    own = config.folder / "per_user.parquet"
    if "against_reference" in result or not (own.exists() and reference.exists()):
        return
    table = pq.read_table(own)
    names = pq.read_schema(reference).names
    arm = "skiprec" if "rank_skiprec" in names else "full_backbone"
    result["against_reference"] = against(table, pq.read_table(reference), arm)
    _write(file, result)


def _notes(found: Results, overrides: list[str], command: str) -> list[str]:
    """The conditions that every row shares, and what differs between them."""
    every = [result for results in found.values() for result in results]
    if not every:
        return ["nothing has run yet"]
    conditions = every[0]["conditions"]
    commits = sorted({str(result["trained_by"]["commit"])[:10] for result in every})
    timed = f"times at batch {conditions['batch']}" if conditions["batch"] else "no times taken"
    notes = [
        f"command: `{command}`",
        f"{conditions['rows']:,} rows of the {conditions['split']} split "
        f"({conditions['split_kind']}), {conditions['num_items']:,} items, "
        f"{conditions['history_length']} inputs; ranked against all items",
        f"{conditions['cpu']}, {conditions['threads']} thread(s), {conditions['dtype']}; {timed}",
        f"commit(s) of training: {', '.join(commits)}",
        "± is the standard deviation over seeds; intervals are paired bootstraps over users, of "
        "several seeds the mean of their ends; training: minutes of steps, earlier stages not "
        "counted",
    ]
    return notes + ([f"overrides: {' '.join(overrides)}"] if overrides else [])


def _draw_convergence(runs: list[Run], results: Path) -> None:
    """From the runs of the first seed that are still there; a second stage goes on at its first."""
    curves: dict[str, Curve] = {}
    first_seed = runs[0][1]
    for row, seed, config in runs:
        metrics = config.folder / "metrics.jsonl"
        if seed == first_seed and metrics.exists():
            before = curves.get(config.init_from or "")
            curves[config.name] = read_curve(metrics, row.label, before)
    if curves:
        shown = list(curves.values())
        convergence_figure(shown).savefig(results / "convergence.png")
        write_convergence(results / "tensorboard", shown)


def _copy_pictures(runs: list[Run], results: Path) -> None:
    """What policies keep, from the reports of the first seed's runs that are still there."""
    for _, seed, config in runs:
        for name in POLICY_PICTURES if seed == runs[0][1] else ():
            if (config.folder / name).exists():
                shutil.copy(config.folder / name, results / f"{config.name}-{name}")


def _depth_point(label: str, seeds: list[Record]) -> tuple[str, int, float, list[float]]:
    """(label, blocks, MRR@20, its interval) of a row; of several seeds, means."""
    lines = [line for result in seeds for line in result["rows"] if line["name"] == "full_backbone"]
    mean = float(np.mean([line["mrr@20"] for line in lines]))
    bounds: list[float] = np.mean([line["mrr@20_interval"] for line in lines], axis=0).tolist()
    return label, seeds[0]["conditions"]["num_blocks"], mean, bounds


def _write(file: Path, result: Record) -> None:
    write_text_durably(file, json.dumps(result, indent=1))
