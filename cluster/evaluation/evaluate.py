"""Evaluates a run on Ray: accuracy by several actors at once, then the times by one, alone."""

import json
import time
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import ray
import torch
from numpy.typing import NDArray
from ray.exceptions import RayActorError

from cluster.evaluation.actors import Job, Scorer, Timer, serving_knob
from cluster.machine.room import places, wait_for_room, worker_resources
from cluster.machine.session import ray_session
from cluster.runs.data import refuse_other_items
from cluster.runs.folder import provenance
from cluster.runs.publish import publish
from cluster.runs.storage import open_storage, upload
from skiprec.checkpoints.network import load_network
from skiprec.config.files import apply_overrides, parse_config
from skiprec.config.run import RunConfig
from skiprec.data.batching import evenly_spaced_rows
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
from skiprec.evaluation.measure.operating_points import Curve, operating_points
from skiprec.evaluation.measure.scoring import TOP, decide_unit
from skiprec.evaluation.measure.tiles import read_tiles, work_units
from skiprec.evaluation.measure.timing import Seconds, TimingPlan, TimingSample
from skiprec.evaluation.report.make import Measured, make_report
from skiprec.evaluation.report.pictures import draw_pictures
from skiprec.evaluation.report.schema import Machine, MeasuredConditions, Report
from skiprec.evaluation.report.table import Columns, per_user_table
from skiprec.evaluation.report.text import report_markdown
from skiprec.network import SkipRecNetwork
from skiprec.observability.tensorboard import write_evaluation
from skiprec.policy.base import PolicyModule
from skiprec.terminal import moving_line, say

OVERRIDABLE = ("evaluation.", "cluster.", "data.")
PROGRESS_EVERY_S = 5.0

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
    return parse_config(apply_overrides(json.loads(saved.read_text()), overrides), str(saved))


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
    with ray_session():
        scored = _accuracy_pass(job, place_V, row_R, network.policy)
        arms, machine = scored.arms, scored.machine
        seconds: dict[int, Seconds] = {}
        if config.evaluation.timing_batches:
            say(f"[{config.name}] accuracy is done; taking times, alone")
            seconds, machine = _timing_pass(job, shards, row_R, timed_R, arms)
    table = per_user_table(scored.parts, arms, cost, timed_R, seconds.get(1))
    conditions = _conditions(job, shards, len(row_R), network, machine, command, started)
    measured = Measured(table, seconds, cost, scored.curve, config.policy.caution)
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


def _accuracy_pass(job: Job, place_V: Longs, row_R: Longs, policy: PolicyModule | None) -> _Scored:
    """All decisions, then the ranks of all arms, whose controls depend on all decisions."""
    evaluation = job.config.evaluation
    units = work_units(len(row_R), evaluation.batch_rows)
    num_actors = min(evaluation.num_workers, len(units))
    actor = _remote(Scorer, _room_for(job.config, num_actors))
    place = ray.put(place_V)
    scorers = [actor.remote(job) for _ in range(num_actors)]
    turn = [scorers[index % len(scorers)] for index in range(len(units))]
    arms, curve = None, None
    try:
        if policy is not None:
            decisions = [
                scorer.decide.remote(unit) for scorer, unit in zip(turn, units, strict=True)
            ]
            decided = concatenate(_collect(job, "decided", decisions))
            curve, learned = operating_points(policy, decided)
            arms = arms_of(decided.keep_RL, row_R) | learned
        scored = [
            scorer.score.remote(unit, None if arms is None else take_rows(arms, unit), place)
            for scorer, unit in zip(turn, units, strict=True)
        ]
        parts = _collect(job, "scored", scored)
        return _Scored(arms, curve, parts, ray.get(scorers[0].machine.remote()))
    finally:
        _end(scorers)


def _setting_for(job: Job, network: SkipRecNetwork, keep_frac: float) -> float:
    """The setting of the policy's knob with which validation rows keep this share of blocks.

    The knob is turned to this setting, as training turns it.
    """
    knob = serving_knob(network)
    shards = ShardSet.open(job.data_path, "validation")
    row_R = evenly_spaced_rows(shards.num_rows, job.config.training.validation_rows)
    decided = decide_unit(network, read_tiles(shards, row_R)[1])
    assert decided.numbers_RK is not None
    setting = knob.setting_for(decided.numbers_RK, keep_frac)
    knob.turn(setting)
    return setting


def _timing_pass(
    job: Job, shards: ShardSet, row_R: Longs, timed_R: Longs, arms: Arms | None
) -> tuple[dict[int, Seconds], Machine]:
    evaluation = job.config.evaluation
    items_RT = torch.from_numpy(
        shards.take(row_R[timed_R]).items_RW[:, :-1].astype(np.int64)
    ).contiguous()
    sample = TimingSample(items_RT, (), torch.empty(0))
    if arms is not None:
        timed = take_rows({arm: arms[arm] for arm in POLICY_ARMS}, timed_R)
        keep_ARL = torch.from_numpy(stack_arms(timed, len(timed_R)).astype(np.float32))
        sample = TimingSample(items_RT, POLICY_ARMS, keep_ARL)
    plan = TimingPlan(
        evaluation.timing_batches,
        evaluation.timing_repeats,
        min(TOP, shards.num_items),
        evaluation.exclude_seen,
    )
    # The timer takes all CPUs of a node, so that Ray starts nothing beside it. It waits for a node.
    worker = _room_for(job.config, 1)
    able_nodes = [node for node in ray.nodes() if places(worker, [node])]  # type: ignore[no-untyped-call]
    worker["CPU"] = max(node["Resources"]["CPU"] for node in able_nodes)
    timer = _remote(Timer, worker).remote(job)
    try:
        batches = ", ".join(map(str, plan.batches))
        # Redrawn once a second: this process may share the processor with the measurement.
        text = f"taking times at batch size {batches}"
        with moving_line(job.config.name, text, refreshes_per_s=1.0):
            seconds = ray.get(timer.run.remote(sample, plan))
        return seconds, ray.get(timer.machine.remote())
    finally:
        _end([timer])


def _room_for(config: RunConfig, num_workers: int) -> dict[str, float]:
    """The resources of one worker; waits until there is room for all of them."""
    worker = worker_resources(config.cluster)
    wanted = "evaluation workers (evaluation.num_workers, cluster.threads_per_worker)"
    wait_for_room(config.name, worker, num_workers, wanted, config.cluster.room_timeout_s)
    return worker


def _remote(kind: type, resources: dict[str, float]) -> Any:
    more = {name: amount for name, amount in resources.items() if name not in ("CPU", "GPU")}
    # Work units are pure, so a lost actor is started again and computes the same results.
    return ray.remote(
        num_cpus=resources["CPU"],
        num_gpus=resources.get("GPU", 0),
        resources=more,
        max_restarts=2,
        max_task_retries=2,
    )(kind)


def _collect(job: Job, done: str, pending: list[Any]) -> list[Any]:
    """The results in the order of the units; shows the progress meanwhile."""
    results, total = [], len(pending)
    with moving_line(job.config.name, "starting workers", plain_every_s=PROGRESS_EVERY_S) as line:
        for index, reference in enumerate(pending):
            results.append(ray.get(reference))
            line.show(f"{done} {index + 1} of {total} units", index + 1, total)
    return results


def _end(actors: list[Any]) -> None:
    """Ends the actors; returns when their processes are gone."""
    for actor in actors:
        ray.kill(actor)
    for actor in actors:
        with suppress(RayActorError):
            ray.get(actor.__ray_ready__.options(max_task_retries=0).remote())


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
    }


def _publish(run_folder: Path, measured: Measured, report: Report) -> Path:
    pictures = draw_pictures(measured, report)

    def write(draft: Path) -> None:
        pq.write_table(measured.table, draft / "per_user.parquet", compression="zstd")
        for name, figure in pictures.items():
            figure.savefig(draft / name)
        (draft / "report.md").write_text(report_markdown(report, list(pictures)))

    write_evaluation(run_folder / "tensorboard", report, pictures)
    return publish(run_folder, "report.json", json.dumps(report, indent=1, allow_nan=False), write)
