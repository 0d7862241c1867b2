"""What a study keeps: a small result of each run, and from these its table, JSON and figures.

The results are enough to draw all but the pictures of policies again, when the runs are gone.
"""

import json
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from cluster.studies.study import Study, StudyRow, result_of_run, study_runs
from cluster.studies.table import Results, against, study_markdown
from skiprec.config.files import config_hash
from skiprec.config.run import RunConfig
from skiprec.durable import write_text_durably
from skiprec.observability.curves import (
    Curve,
    convergence_figure,
    convergence_table,
    depth_figure,
    read_curve,
)
from skiprec.observability.tensorboard import write_convergence

Record = dict[str, Any]

POLICY_PICTURES = ("keep_heat_map.png", "block_keep_rates.png", "frontier.png")


@dataclass(frozen=True)
class Run:
    """One run of a study.

    Args:
        earlier: the stages that it starts from, the last one first.
        reference: the run of the same seed that it is paired with.
    """

    row: StudyRow
    seed: int
    config: RunConfig
    earlier: tuple[RunConfig, ...]
    reference: RunConfig

    def result_file(self, results: Path) -> Path:
        """Where its small result is."""
        return results / f"{self.config.name}.json"

    def is_current(self, results: Path) -> bool:
        """Whether its result is of this configuration, evaluation and earlier stages included."""
        file = self.result_file(results)
        if not file.exists():
            return False
        saved = json.loads(file.read_text())
        found = [RunConfig.model_validate(part) for part in (saved["config"], *saved["earlier"])]
        expected = (self.config, *self.earlier)
        hashes = ([config_hash(part) for part in parts] for parts in (found, expected))
        return len({tuple(part) for part in hashes}) == 1 and (
            found[0].evaluation == self.config.evaluation
        )

    @property
    def is_evaluated(self) -> bool:
        """Whether its report is there, made with these settings; another study may have."""
        report = self.config.folder / "report.json"
        if not report.exists():
            return False
        conditions = json.loads(report.read_text())["conditions"]
        found = (conditions["config_hash"], conditions.get("evaluation"))
        return found == (config_hash(self.config), self.config.evaluation.model_dump(mode="json"))

    @property
    def can_start(self) -> bool:
        """Whether what it starts from is finished."""
        return not self.earlier or (self.earlier[0].folder / "result.json").exists()


def runs_of(study: Study, folder: Path, overrides: list[str]) -> list[Run]:
    """See `study_runs`."""
    runs: list[Run] = []
    stages: dict[str | None, tuple[RunConfig, ...]] = {None: ()}
    references: dict[int, RunConfig] = {}
    for row, seed, config in study_runs(study, folder, overrides):
        references.setdefault(seed, config)
        runs.append(Run(row, seed, config, stages[config.init_from], references[seed]))
        stages[config.name] = (config, *stages[config.init_from])
    return runs


def write_result(results: Path, run: Run, trained: Record) -> None:
    """What is kept of a run that was trained and evaluated.

    Args:
        trained: its `result.json`.
    """
    config = run.config
    report = json.loads((config.folder / "report.json").read_text())
    curve = read_curve(config.folder / "metrics.jsonl", run.row.label)
    extra: Record = {
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
    _write(run.result_file(results), result_of_run(report, extra))


def publish_study(
    study: Study, runs: list[Run], results: Path, overrides: list[str], command: str
) -> None:
    """Pairs what can be paired, then writes the table, the JSON and the figures anew.

    Results of another configuration are left out.
    """
    stale = [
        run.config.name
        for run in runs
        if run.result_file(results).exists() and not run.is_current(results)
    ]
    runs = [run for run in runs if run.is_current(results)]
    found: Results = {}
    for run in runs:
        result = json.loads(run.result_file(results).read_text())
        _pair(run, result, results)
        found.setdefault(run.row.name, []).append(result)
    extra = _convergence(runs, results) if "convergence" in study.figures else []
    notes = _notes(found, overrides, command)
    if stale:
        notes.append(f"left out, since of another configuration: {', '.join(stale)}")
    write_text_durably(results / "table.md", study_markdown(study, found, extra, notes))
    table = {"title": study.title, "seeds": list(study.seeds), "results": found}
    write_text_durably(results / "study.json", json.dumps(table, indent=1))
    if "policies" in study.figures:
        _copy_pictures(runs, results)
    if "depth" in study.figures and found:
        points = [
            _depth_point(row.label, found[row.name]) for row in study.rows if row.name in found
        ]
        depth_figure(points).savefig(results / "depth.png")


def _rounded(curve: Curve) -> Record:
    """Epochs, hours and values to the digits that a figure shows."""
    return {
        what: [[round(e, 3), round(h, 4), round(value, 4)] for e, h, value in points]
        for what, points in asdict(curve).items()
        if what != "label"
    }


def _dump(config: RunConfig) -> Record:
    return config.model_dump(mode="json", exclude_none=True, exclude={"root"})


def _pair(run: Run, result: Record, results: Path) -> None:
    """Adds the differences to the reference of the same seed, while both evaluations are there."""
    paired_with = {"name": run.reference.name, "config_hash": config_hash(run.reference)}
    if result.get("paired_with") == paired_with:
        return
    result.pop("against_reference", None)
    reference = run.reference.folder / "per_user.parquet"
    own = run.config.folder / "per_user.parquet"
    if not (own.exists() and reference.exists()):
        return
    table = pq.read_table(own)
    names = pq.read_schema(reference).names
    arm = "skiprec" if "rank_skiprec" in names else "full_backbone"
    found = against(table, pq.read_table(reference), arm)
    shown = {line["name"] for line in result["rows"]}
    result["against_reference"] = {name: found[name] for name in found if name in shown}
    result["paired_with"] = paired_with
    _write(run.result_file(results), result)


def _notes(found: Results, overrides: list[str], command: str) -> list[str]:
    """The conditions that every row shares, and what differs between them."""
    every = [result for results in found.values() for result in results]
    if not every:
        return ["nothing has run yet"]
    conditions = every[0]["conditions"]
    commits = sorted({str(result["trained_by"]["commit"])[:10] for result in every})
    timed = f"times at batch {conditions['batch']}" if conditions["batch"] else "no times taken"
    on_gpu = conditions["device"] != "cpu"
    machine = f"{conditions['device']}, {conditions['cpu']}" if on_gpu else conditions["cpu"]
    notes = [
        f"command: `{command}`",
        f"{conditions['rows']:,} rows of the {conditions['split']} split "
        f"({conditions['split_kind']}), {conditions['num_items']:,} items, "
        f"{conditions['history_length']} inputs; ranked against all items",
        f"{machine}, {conditions['threads']} thread(s), {conditions['dtype']}; {timed}",
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


def _convergence(runs: list[Run], results: Path) -> list[str]:
    """Figure, TensorBoard and table of the first seed; a second stage goes on at its first."""
    curves: dict[str, Curve] = {}
    for run in runs:
        if run.seed == runs[0].seed:
            saved = json.loads(run.result_file(results).read_text())["training"]["curve"]
            points = {what: [(e, h, value) for e, h, value in saved[what]] for what in saved}
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
    """What policies keep, from the reports of the first seed's runs that are still there."""
    for run in runs:
        for name in POLICY_PICTURES if run.seed == runs[0].seed else ():
            if (run.config.folder / name).exists():
                shutil.copy(run.config.folder / name, results / f"{run.config.name}-{name}")


def _depth_point(label: str, seeds: list[Record]) -> tuple[str, int, float, list[float]]:
    """(label, blocks, MRR@20, its interval) of a row; of several seeds, means."""
    lines = [line for result in seeds for line in result["rows"] if line["name"] == "full_backbone"]
    mean = float(np.mean([line["mrr@20"] for line in lines]))
    bounds: list[float] = np.mean([line["mrr@20_interval"] for line in lines], axis=0).tolist()
    return label, seeds[0]["conditions"]["num_blocks"], mean, bounds


def _write(file: Path, result: Record) -> None:
    """One key a line, numbers to seven digits: short, and a difference between two can be read."""
    lines = [f"{json.dumps(key)}: {json.dumps(_short(value))}" for key, value in result.items()]
    write_text_durably(file, "{\n" + ",\n".join(lines) + "\n}\n")


def _short(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.7g}")
    if isinstance(value, dict):
        return {key: _short(inner) for key, inner in value.items()}
    return [_short(inner) for inner in value] if isinstance(value, list | tuple) else value
