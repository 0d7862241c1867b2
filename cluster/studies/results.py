"""The results of a study: a small one of each run, and from these the table, JSON and figures.

The small results are enough to make all but the pictures of policies again when the runs are gone.
"""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from cluster.studies.schema import Learning, PairedWith, RunFacts, StudyResult
from cluster.studies.study import Study, StudyRow, result_of_run, study_runs
from cluster.studies.table import Results, against, study_markdown
from skiprec.config.files import config_hash
from skiprec.config.run import RunConfig
from skiprec.durable import write_text_durably
from skiprec.evaluation.measure.arms import FULL_BACKBONE, SKIPREC
from skiprec.evaluation.report.schema import METRIC, Conditions, interval_of, value_of
from skiprec.observability.curves import (
    Curve,
    convergence_figure,
    convergence_table,
    depth_figure,
    read_curve,
)
from skiprec.observability.tensorboard import write_convergence

POLICY_PICTURES = ("keep_heat_map.png", "block_keep_rates.png", "frontier.png")


@dataclass(frozen=True)
class Run:
    """One run of a study.

    Args:
        earlier: the stages from which the run starts, the last one first.
        reference: the run of the same seed that this run is paired with.
    """

    row: StudyRow
    seed: int
    config: RunConfig
    earlier: tuple[RunConfig, ...]
    reference: RunConfig

    def result_file(self, results: Path) -> Path:
        """The file of the small result."""
        return results / f"{self.config.name}.json"

    def is_current(self, results: Path) -> bool:
        """Whether the result is of this configuration, with its evaluation and earlier stages."""
        file = self.result_file(results)
        if not file.exists():
            return False
        saved = json.loads(file.read_text())
        saved_stages = [
            RunConfig.model_validate(part) for part in (saved["config"], *saved["earlier"])
        ]
        saved_hashes = [config_hash(stage) for stage in saved_stages]
        own_hashes = [config_hash(stage) for stage in (self.config, *self.earlier)]
        is_same_evaluation = saved_stages[0].evaluation == self.config.evaluation
        return saved_hashes == own_hashes and is_same_evaluation

    @property
    def is_evaluated(self) -> bool:
        """Whether the report is there, made with these settings; another study may have made it."""
        report = self.config.folder / "report.json"
        if not report.exists():
            return False
        conditions = json.loads(report.read_text())["conditions"]
        evaluation = self.config.evaluation.model_dump(mode="json")
        is_same_run = bool(conditions["config_hash"] == config_hash(self.config))
        return is_same_run and conditions.get("evaluation") == evaluation

    @property
    def needs_ray(self) -> bool:
        """Whether it trains or is evaluated outside of the study's own process."""
        return self.config.cluster.num_workers > 0 or self.config.evaluation.num_workers > 0

    @property
    def can_start(self) -> bool:
        """Whether the run from which this one starts is finished."""
        return not self.earlier or (self.earlier[0].folder / "result.json").exists()


def runs_of(study: Study, folder: Path, overrides: list[str]) -> list[Run]:
    """The runs of a study; the arguments and errors are those of `study_runs`."""
    runs: list[Run] = []
    stages: dict[str | None, tuple[RunConfig, ...]] = {None: ()}
    references: dict[int, RunConfig] = {}
    for row, seed, config in study_runs(study, folder, overrides):
        references.setdefault(seed, config)
        runs.append(Run(row, seed, config, stages[config.init_from], references[seed]))
        stages[config.name] = (config, *stages[config.init_from])
    return runs


def write_result(results: Path, run: Run, trained: dict[str, Any]) -> None:
    """Writes the small result of a run that was trained and evaluated.

    Args:
        trained: the contents of its `result.json`.
    """
    config = run.config
    report = json.loads((config.folder / "report.json").read_text())
    curve = read_curve(config.folder / "metrics.jsonl", run.row.label)
    facts: RunFacts = {
        "row": run.row.name,
        "label": run.row.label,
        "seed": run.seed,
        "config": _dump(config),
        "earlier": [_dump(stage) for stage in run.earlier],
        "trained_by": json.loads((config.folder / "run.json").read_text()),
        "training": {
            "steps": trained["steps"],
            "best_step": trained["best_step"],
            "best_mrr@20": trained["best_mrr@20"],
            "minutes": round(60 * curve.end[1], 2),
            "curve": _rounded(curve),
        },
    }
    _write(run.result_file(results), result_of_run(report, facts))


def publish_study(
    study: Study, runs: list[Run], results: Path, overrides: list[str], command: str
) -> None:
    """Pairs runs with their references, then writes the table, the JSON and the figures anew.

    A run is paired while its evaluation and that of its reference are there. Results of another
    configuration are left out.
    """
    stale = [
        run.config.name
        for run in runs
        if run.result_file(results).exists() and not run.is_current(results)
    ]
    runs = [run for run in runs if run.is_current(results)]
    results_of: Results = {}
    for run in runs:
        result = json.loads(run.result_file(results).read_text())
        _pair(run, result, results)
        results_of.setdefault(run.row.name, []).append(result)
    extra = _convergence(runs, results) if "convergence" in study.figures else []
    notes = _notes(results_of, overrides, command)
    if stale:
        notes.append(f"left out, since of another configuration: {', '.join(stale)}")
    write_text_durably(results / "table.md", study_markdown(study, results_of, extra, notes))
    table = {"title": study.title, "seeds": list(study.seeds), "results": results_of}
    write_text_durably(results / "study.json", json.dumps(table, indent=1))
    if "policies" in study.figures:
        _copy_pictures(runs, results)
    if "depth" in study.figures and results_of:
        points = [
            _depth_point(row.label, results_of[row.name])
            for row in study.rows
            if row.name in results_of
        ]
        depth_figure(points).savefig(results / "depth.png")


def _rounded(curve: Curve) -> Learning:
    """The points of a curve, rounded to the digits that a figure shows."""

    def rounded(points: list[tuple[float, float, float]]) -> list[tuple[float, float, float]]:
        return [(round(e, 3), round(h, 4), round(value, 4)) for e, h, value in points]

    return {"loss": rounded(curve.loss), "mrr": rounded(curve.mrr)}


def _dump(config: RunConfig) -> dict[str, object]:
    return config.model_dump(mode="json", exclude_none=True, exclude={"root"})


def _pair(run: Run, result: StudyResult, results: Path) -> None:
    """Adds the differences to the reference of the same seed, while both evaluations are there."""
    paired_with: PairedWith = {
        "name": run.reference.name,
        "config_hash": config_hash(run.reference),
    }
    if result.get("paired_with") == paired_with:
        return
    result.pop("against_reference", None)
    reference = run.reference.folder / "per_user.parquet"
    own = run.config.folder / "per_user.parquet"
    if not (own.exists() and reference.exists()):
        return
    table = pq.read_table(own)
    has_policy = SKIPREC.rank_column in pq.read_schema(reference).names
    reference_arm = SKIPREC if has_policy else FULL_BACKBONE
    differences = against(table, pq.read_table(reference), reference_arm)
    shown = {line["name"] for line in result["rows"]}
    result["against_reference"] = {
        name: difference for name, difference in differences.items() if name in shown
    }
    result["paired_with"] = paired_with
    _write(run.result_file(results), result)


def _notes(results_of: Results, overrides: list[str], command: str) -> list[str]:
    """The conditions that all rows share, and how to read the columns."""
    every = [result for results in results_of.values() for result in results]
    if not every:
        return ["nothing has run yet"]
    conditions = every[0]["conditions"]
    commits = sorted({str(result["trained_by"]["commit"])[:10] for result in every})
    timed = f"times at batch {conditions['batch']}" if conditions["batch"] else "no times taken"
    machines = sorted({_machine(result["conditions"]) for result in every})
    precisions = sorted({_precision(result["config"]) for result in every})
    notes = [
        f"command: `{command}`",
        f"{conditions['rows']:,} rows of the {conditions['split']} split "
        f"({conditions['split_kind']}), {conditions['num_items']:,} items, "
        f"{conditions['history_length']} inputs; ranked against all items",
        f"{' and '.join(machines)}, {conditions['threads']} thread(s); trained in "
        f"{' and '.join(precisions)}, evaluated in {conditions['dtype']}; {timed}",
        f"commit(s) of training: {', '.join(commits)}",
        "MFLOPs: of one row, from item ids to the list; FLOPs and end to end: how many times less "
        "than all blocks of the row's own net",
        "± is the standard deviation over seeds; intervals are paired bootstraps over users, of "
        "several seeds the mean of their ends; training: minutes of steps, earlier stages not "
        "counted",
    ]
    if any(result["policy"] for result in every):
        notes.append(
            "decisions: distinct ones among the users; between users: the share of their variance "
            "that is not explained by which block it is; sd of kept: of the blocks that a user "
            "keeps; fixed sets: the most kept blocks, of the two sizes next to the policy's mean"
        )
    return notes + ([f"overrides: {' '.join(overrides)}"] if overrides else [])


def _precision(config: dict[str, Any]) -> str:
    precision: str = config["training"]["precision"]
    return precision


def _machine(conditions: Conditions) -> str:
    on_gpu = conditions["device"] != "cpu"
    return f"{conditions['device']}, {conditions['cpu']}" if on_gpu else conditions["cpu"]


def _convergence(runs: list[Run], results: Path) -> list[str]:
    """Draws the learning curves of the first seed; returns the lines of their table.

    The curve of a second stage begins where that of its first stage ends.
    """
    curves: dict[str, Curve] = {}
    for run in runs:
        if run.seed == runs[0].seed:
            saved = json.loads(run.result_file(results).read_text())["training"]["curve"]
            points = {
                number: [(epochs, hours, value) for epochs, hours, value in saved[number]]
                for number in saved
            }
            before = curves.get(run.config.init_from or "")
            curves[run.config.name] = Curve(run.row.label, **points).after(before)
    if not runs or runs[0].reference.name not in curves:
        return []
    shown = list(curves.values())
    convergence_figure(shown).savefig(results / "convergence.png")
    shutil.rmtree(results / "tensorboard", ignore_errors=True)
    write_convergence(results / "tensorboard", shown)
    return convergence_table(shown, curves[runs[0].reference.name])


def _copy_pictures(runs: list[Run], results: Path) -> None:
    """Copies the pictures of policies from those runs of the first seed that are still there."""
    for run in runs:
        for name in POLICY_PICTURES if run.seed == runs[0].seed else ():
            if (run.config.folder / name).exists():
                shutil.copy(run.config.folder / name, results / f"{run.config.name}-{name}")


def _depth_point(label: str, seeds: list[StudyResult]) -> tuple[str, int, float, list[float]]:
    """(label, blocks, MRR@20, its interval) of a row; means over the seeds."""
    lines = [
        line for result in seeds for line in result["rows"] if line["name"] == FULL_BACKBONE.name
    ]
    mean = float(np.mean([value_of(line, METRIC) for line in lines]))
    bounds: list[float] = np.mean([interval_of(line, METRIC) for line in lines], axis=0).tolist()
    return label, seeds[0]["conditions"]["num_blocks"], mean, bounds


def _write(file: Path, result: StudyResult) -> None:
    """Writes one key a line and numbers to seven digits, so that two results can be compared."""
    lines = [f"{json.dumps(key)}: {json.dumps(_short(value))}" for key, value in result.items()]
    write_text_durably(file, "{\n" + ",\n".join(lines) + "\n}\n")


def _short(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.7g}")
    if isinstance(value, dict):
        return {key: _short(inner) for key, inner in value.items()}
    return [_short(inner) for inner in value] if isinstance(value, list | tuple) else value
