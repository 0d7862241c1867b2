"""Evaluates a run: accuracy by the members of a crew at once, then the times by one, alone."""

import json
import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray

from cluster.evaluation.actors import Job, Scorer, Timer, serving_knob
from cluster.evaluation.crew import scoring_crew, session_of, timing_crew
from cluster.runs.data import refuse_other_items
from cluster.runs.folder import provenance
from cluster.runs.publish import publish
from cluster.runs.storage import open_storage, upload
from skiprec.checkpoints.network import load_network
from skiprec.config.files import saved_config
from skiprec.config.run import RunConfig
from skiprec.data.batching import evenly_spaced_rows
from skiprec.data.halves import rows_to_validate
from skiprec.data.shards import ShardSet
from skiprec.evaluation.measure.arms import (
    POLICY_ARMS,
    Arms,
    arms_of,
    concatenate,
    stack_arms,
    take_rows,
)
from skiprec.evaluation.measure.baselines import popularity_places
from skiprec.evaluation.measure.compute_cost import measure_cost
from skiprec.evaluation.measure.native_timing import Agreement, why_no_native_executor
from skiprec.evaluation.measure.operating_points import Curve, operating_points
from skiprec.evaluation.measure.scoring import TOP, decide_unit
from skiprec.evaluation.measure.tiles import read_tiles, work_units
from skiprec.evaluation.measure.timing import Times, TimingPlan, TimingSample
from skiprec.evaluation.report.make import Measured, make_report
from skiprec.evaluation.report.schema import Machine, MeasuredConditions, Report
from skiprec.evaluation.report.table import Columns, per_user_table
from skiprec.evaluation.report.text import report_markdown
from skiprec.network import SkipRecNetwork
from skiprec.policy.base import PolicyModule
from skiprec.terminal import say

OVERRIDABLE = ("evaluation.", "cluster.", "data.")

Longs = NDArray[np.int64]


def evaluation_config(run_folder: Path, overrides: list[str]) -> RunConfig:
    """The configuration of a run's training, with overrides for its evaluation.

    Raises:
        ValueError: no run in this folder, or an override of a section that decides its training.
    """
    saved = run_folder / "config.json"
    if not saved.exists():
        raise ValueError(
            f"{run_folder} is not a run's folder (no {saved.name}); expected --run DIR"
        )
    foreign = [text for text in overrides if not text.startswith(OVERRIDABLE)]
    if foreign:
        raise ValueError(
            f"--set {foreign[0]}: the run is trained already; only {', '.join(OVERRIDABLE)}… can "
            "be set for its evaluation"
        )
    return saved_config(saved, overrides)


def evaluate_run(config: RunConfig, run_folder: Path, command: str) -> Path:
    """Evaluates the best checkpoint of a run; returns the path of `report.json`, written last.

    Args:
        command: the command that made this report, for its conditions.

    Raises:
        ValueError: no checkpoint, data with other items, or no room for so many workers.
    """
    started = time.monotonic()
    job = Job(config, run_folder.resolve(), Path(config.data.path).resolve())
    shards, row_R = job.open_rows()
    network = load_network(job.run_folder)[1]
    _check(job, network, shards, row_R)
    if config.evaluation.keep_frac is not None:
        job = replace(job, setting=_setting_for(job, network, config.evaluation.keep_frac))
    place_V = popularity_places(ShardSet.open(job.data_path, "train"))
    cost = measure_cost(network, shards.window - 1, min(TOP, network.num_items))
    timed_R = evenly_spaced_rows(len(row_R), config.evaluation.timing_users)
    is_timed = bool(config.evaluation.timing_batches)
    is_native = why_no_native_executor(network, config.evaluation.executor) is None
    compares = is_timed and is_native
    with session_of(config):
        scored = _accuracy_pass(job, place_V, row_R, network.policy, compares)
        arms, machine = scored.arms, scored.machine
        times: dict[int, Times] = {}
        executor = "no times were taken"
        if is_timed:
            say(f"[{config.name}] accuracy is done; taking times, alone")
            times, machine, executor = _timing_pass(job, shards, row_R, timed_R, arms)
    seconds = times[1].cold if 1 in times else None
    table = per_user_table(scored.parts, arms, cost, timed_R, seconds)
    conditions = _conditions(job, shards, len(row_R), network, machine, executor, command, started)
    measured = Measured(table, times, cost, scored.curve, config.policy.caution, scored.agreement)
    published = _publish(job.run_folder, measured, make_report(measured, conditions))
    storage = open_storage(config.cluster, config.name)
    if storage is not None:
        upload(storage, job.run_folder, token=None)
    return published


@dataclass(frozen=True)
class _Scored:
    arms: Arms | None
    curve: Curve | None
    parts: list[Columns]
    machine: Machine
    agreement: Agreement | None


def _accuracy_pass(
    job: Job, place_V: Longs, row_R: Longs, policy: PolicyModule | None, compares: bool
) -> _Scored:
    """All decisions, then the ranks of all arms, whose controls depend on all decisions.

    Args:
        compares: whether the native executor's lists are compared with PyTorch's.
    """
    units = work_units(len(row_R), job.config.evaluation.batch_rows)
    arms, curve = None, None
    with scoring_crew(job.config, Scorer, len(units), job, place_V) as scorers:
        if policy is not None:
            parts = scorers.all("decide", [(unit,) for unit in units], "decided")
            decided = concatenate(parts)
            curve, learned = operating_points(policy, decided)
            arms = arms_of(decided.keep_RL, row_R, job.config.model.exits) | learned
        calls = [(unit, None if arms is None else take_rows(arms, unit)) for unit in units]
        parts = scorers.all("score", calls, "scored")
        agreement = None
        if compares:
            k = min(TOP, len(place_V))
            pairs = [(unit, k) for unit in units]
            agreement = sum(scorers.all("compare", pairs, "compared"), Agreement())
        return _Scored(arms, curve, parts, scorers.one("machine"), agreement)


def _setting_for(job: Job, network: SkipRecNetwork, keep_frac: float) -> float:
    """The setting of the policy's knob with which validation rows keep this share of blocks.

    The knob is turned to this setting, as training turns it.
    """
    knob = serving_knob(network)
    rows = rows_to_validate(job.data_path, job.config.training)
    row_R = evenly_spaced_rows(rows.num_rows, job.config.training.validation_rows)
    decided = decide_unit(network, read_tiles(rows, row_R)[1])
    assert decided.numbers_RK is not None
    setting = knob.setting_for(decided.numbers_RK, keep_frac)
    knob.turn(setting)
    return setting


def _timing_pass(
    job: Job, shards: ShardSet, row_R: Longs, timed_R: Longs, arms: Arms | None
) -> tuple[dict[int, Times], Machine, str]:
    evaluation = job.config.evaluation
    rows = shards.take(row_R[timed_R])
    items_RT = torch.from_numpy(rows.items_RW[:, :-1].astype(np.int64)).contiguous()
    times_RW = None if rows.times_RW is None else torch.from_numpy(rows.times_RW)
    sample = TimingSample(items_RT, (), torch.empty(0), times_RW)
    if arms is not None:
        timed = take_rows({arm: arms[arm] for arm in POLICY_ARMS}, timed_R)
        keep_ARL = torch.from_numpy(stack_arms(timed, len(timed_R)).astype(np.float32))
        sample = TimingSample(items_RT, POLICY_ARMS, keep_ARL, times_RW)
    plan = TimingPlan(
        evaluation.timing_batches,
        evaluation.timing_repeats,
        min(TOP, shards.num_items),
        evaluation.exclude_seen,
    )
    with timing_crew(job.config, Timer, job) as timer:
        return timer.one("run", sample, plan), timer.one("machine"), timer.one("executor")


def _check(job: Job, network: SkipRecNetwork, shards: ShardSet, row_R: Longs) -> None:
    refuse_other_items(job.run_folder, network.num_items, job.data_path)
    if not len(row_R):
        raise ValueError(
            f"split {shards.split!r} of {job.data_path} has no rows; choose another "
            "(--set evaluation.split=…), or build the data with more users"
        )


def _conditions(
    job: Job,
    shards: ShardSet,
    num_rows: int,
    network: SkipRecNetwork,
    machine: Machine,
    executor: str,
    command: str,
    started: float,
) -> MeasuredConditions:
    config = job.config
    made_by = provenance(config)
    return {
        "name": config.name,
        "command": command,
        **machine,
        "timing_batches": list(config.evaluation.timing_batches),
        "repeats": config.evaluation.timing_repeats,
        "evaluation": config.evaluation.model_dump(mode="json"),
        "history_length": shards.window - 1,
        "num_items": shards.num_items,
        "num_blocks": network.num_blocks,
        "width": config.model.width,
        "backbone": config.model.backbone,
        "policy": config.policy.model_dump(exclude_none=True),
        "keep_frac_asked": config.evaluation.keep_frac,
        "init_from": config.init_from,
        "init_items": _items_of_init(job.run_folder),
        "data": str(config.data.path),
        "data_content": shards.manifest.content_hash,
        "split": shards.split,
        "split_kind": shards.manifest.recipe.get("split", {}).get("kind"),
        "rows": num_rows,
        "rows_of_split": shards.num_rows,
        "exclude_seen": config.evaluation.exclude_seen,
        "commit": made_by["commit"],
        "config_hash": made_by["config_hash"],
        "versions": made_by["versions"],
        "written": made_by["started"],
        "evaluation_s": round(time.monotonic() - started, 1),
        "executor": executor,
    }


def _items_of_init(run_folder: Path) -> dict[str, int] | None:
    """How many items were kept, new and gone at the start; None: the catalogue was the same."""
    result = run_folder / "result.json"
    items: dict[str, int] | None = None
    if result.exists():
        items = json.loads(result.read_text()).get("items")
    return items


def _publish(run_folder: Path, measured: Measured, report: Report) -> Path:
    # Drawing takes a second to import, and the worker processes do not draw.
    from skiprec.evaluation.report.pictures import draw_pictures
    from skiprec.observability.tensorboard import write_evaluation

    pictures = draw_pictures(measured, report)

    def write(draft: Path) -> None:
        pq.write_table(measured.table, draft / "per_user.parquet", compression="zstd")
        for name, figure in pictures.items():
            figure.savefig(draft / name)
        (draft / "report.md").write_text(report_markdown(report, list(pictures)))

    write_evaluation(run_folder / "tensorboard", report, pictures)
    return publish(run_folder, "report.json", json.dumps(report, indent=1, allow_nan=False), write)
