"""Evaluates a run on Ray: accuracy by several actors at once, then the times by one, alone."""

import json
import platform
import shutil
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import ray
import torch
from numpy.typing import NDArray
from ray.exceptions import RayActorError

from cluster.checkpoint import load_network, write_text_durably
from cluster.process import keep_freed_memory
from cluster.run_folder import provenance
from cluster.session import ray_session
from skiprec.config import RunConfig
from skiprec.config_files import apply_overrides, parse_config
from skiprec.data.shards import ShardSet
from skiprec.evaluation.arms import POLICY_ARMS, Controls, Keep, controls_of
from skiprec.evaluation.baselines import popularity_places
from skiprec.evaluation.compute_cost import measure_cost
from skiprec.evaluation.report import Measured, draw_pictures, make_report
from skiprec.evaluation.report_text import report_markdown
from skiprec.evaluation.scoring import (
    TOP,
    decide_unit,
    describe_rows,
    score_arms,
    score_baselines,
    score_full,
)
from skiprec.evaluation.table import Columns, per_user_table
from skiprec.evaluation.tiles import evaluated_rows, read_tiles, work_units
from skiprec.evaluation.timing import Seconds, TimingPlan, TimingSample, time_arms
from skiprec.network import SkipRecNetwork
from skiprec.observability.tensorboard import write_evaluation

OVERRIDABLE = ("evaluation.", "cluster.", "data.")
PROGRESS_EVERY_S = 5.0

Longs = NDArray[np.int64]


@dataclass(frozen=True)
class Job:
    """What every actor of one evaluation must know; all paths are absolute."""

    config: RunConfig
    run_folder: Path
    data_path: Path

    @property
    def backbone_folder(self) -> Path | None:
        """The pretraining run, which lies beside this one."""
        name = self.config.init_from
        return None if name is None else self.run_folder.parent / name

    def open_rows(self) -> tuple[ShardSet, Longs]:
        """The evaluated split and the row numbers that are taken of it."""
        shards = ShardSet.open(self.data_path, self.config.evaluation.split)
        return shards, evaluated_rows(shards.num_rows, self.config.evaluation.max_rows)

    def load(self, folder: Path) -> SkipRecNetwork:
        """A run's best network on this actor's device, with the same number of threads for all."""
        torch.set_num_threads(self.config.cluster.threads_per_worker)
        keep_freed_memory()
        device = "cuda" if self.config.cluster.use_gpu else "cpu"
        return load_network(folder)[1].to(device)


class Scorer:
    """Computes work units. Which actor gets which unit changes nothing in the results."""

    def __init__(self, job: Job) -> None:
        self.exclude_seen = job.config.evaluation.exclude_seen
        self.shards, self.row_R = job.open_rows()
        self.network = job.load(job.run_folder)
        self.backbone = self.network if self.network.policy is None else None
        if job.backbone_folder is not None and self.network.policy is not None:
            self.backbone = job.load(job.backbone_folder)

    def decide(self, unit: slice) -> Keep:
        """The policy's decisions for the rows of a unit."""
        _, tiles = read_tiles(self.shards, self.row_R[unit])
        return decide_unit(self.network, tiles)

    def score(self, unit: slice, keep_ARL: Keep | None, place_V: Longs) -> Columns:
        """The columns of the per-user table for the rows of a unit."""
        rows, tiles = read_tiles(self.shards, self.row_R[unit])
        columns: Columns = {
            **describe_rows(rows),
            **score_baselines(rows, place_V, self.exclude_seen),
        }
        if self.backbone is not None:
            columns |= score_full(self.backbone, tiles, self.exclude_seen)
        if keep_ARL is not None:
            columns |= score_arms(self.network, tiles, keep_ARL, self.exclude_seen)
        return columns


class Timer:
    """Takes the times, on a node of its own."""

    def __init__(self, job: Job) -> None:
        self.network = job.load(job.run_folder)

    def run(self, sample: TimingSample, plan: TimingPlan) -> dict[int, Seconds]:
        """Seconds by batch size."""
        device = self.network.device
        sample = TimingSample(sample.items_RT.to(device), sample.names, sample.keep_ARL.to(device))
        return time_arms(self.network, sample, plan)

    def machine(self) -> dict[str, Any]:
        """Where the times were taken."""
        device = self.network.device
        is_cuda = device.type == "cuda"
        return {
            "device": torch.cuda.get_device_name(device) if is_cuda else "cpu",
            "cpu": _cpu_model(),
            "threads": torch.get_num_threads(),
            "dtype": str(self.network.embedding.table.weight.dtype).removeprefix("torch."),
        }


def evaluation_config(run_folder: Path, overrides: list[str]) -> RunConfig:
    """The configuration a run was trained with; what decides its training cannot be overridden.

    Raises:
        ValueError: no run in that folder, or an override of another section.
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
    """Evaluates the best checkpoint of a run; returns `report.json`, written last of all.

    Args:
        command: what made this report, for its conditions.

    Raises:
        ValueError: no checkpoint, other data, or more workers than the cluster has CPUs for.
    """
    started = time.monotonic()
    job = Job(config, run_folder.resolve(), Path(config.data.path).resolve())
    shards, row_R = job.open_rows()
    network = load_network(job.run_folder)[1]
    _check(job, network, shards, row_R)
    place_V = popularity_places(ShardSet.open(job.data_path, "train"))
    cost = measure_cost(network, shards.window - 1, min(TOP, network.num_items))
    with ray_session():
        controls, parts = _accuracy_pass(job, place_V, row_R, network.policy is not None)
        timed_R = evaluated_rows(len(row_R), config.evaluation.timing_users)
        print(f"[{config.name}] accuracy is done; taking times, alone", flush=True)
        seconds, machine = _timing_pass(job, shards, row_R, timed_R, controls)
    table = per_user_table(parts, controls, cost, timed_R, seconds.get(1))
    conditions = _conditions(job, shards, len(row_R), network, machine, command)
    conditions["evaluation_s"] = round(time.monotonic() - started, 1)
    measured = Measured(table, seconds, cost)
    report = make_report(measured, conditions)
    return _publish(job.run_folder, measured, report)


def _accuracy_pass(
    job: Job, place_V: Longs, row_R: Longs, has_policy: bool
) -> tuple[Controls | None, list[Columns]]:
    """All decisions, then the ranks of all arms: the controls need every row's decision first."""
    evaluation = job.config.evaluation
    units = work_units(len(row_R), evaluation.batch_rows)
    threads = job.config.cluster.threads_per_worker
    num_actors = min(evaluation.num_workers, len(units))
    available = ray.cluster_resources().get("CPU", 0)  # type: ignore[no-untyped-call]
    if num_actors * threads > available:
        raise ValueError(
            f"{num_actors} evaluation workers (evaluation.num_workers) of {threads} threads each "
            f"(cluster.threads_per_worker) need {num_actors * threads} CPUs, Ray has "
            f"{available:.0f}; set one of them lower"
        )
    actor = _remote(Scorer, job.config, threads)
    place = ray.put(place_V)
    scorers = [actor.remote(job) for _ in range(num_actors)]
    turn = [scorers[index % len(scorers)] for index in range(len(units))]
    try:
        controls = None
        if has_policy:
            decided = [a.decide.remote(unit) for a, unit in zip(turn, units, strict=True)]
            controls = controls_of(np.concatenate(_collect(job, "decided", decided)), row_R)
        scored = [
            a.score.remote(unit, None if controls is None else controls.keep_ARL[:, unit], place)
            for a, unit in zip(turn, units, strict=True)
        ]
        return controls, _collect(job, "scored", scored)
    finally:
        _end(scorers)


def _timing_pass(
    job: Job, shards: ShardSet, row_R: Longs, timed_R: Longs, controls: Controls | None
) -> tuple[dict[int, Seconds], dict[str, Any]]:
    evaluation = job.config.evaluation
    items_RT = torch.from_numpy(
        shards.take(row_R[timed_R]).items_RW[:, :-1].astype(np.int64)
    ).contiguous()
    sample = TimingSample(items_RT, (), torch.empty(0))
    if controls is not None:
        keep_ARL = torch.from_numpy(controls.keep_ARL[:, timed_R].astype(np.float32))
        sample = TimingSample(items_RT, POLICY_ARMS, keep_ARL)
    plan = TimingPlan(
        evaluation.timing_batches,
        evaluation.timing_repeats,
        min(TOP, shards.num_items),
        evaluation.exclude_seen,
    )
    # All CPUs of a node, so that Ray puts nothing beside it; it waits until there is such a node.
    whole_node = max(node["Resources"].get("CPU", 0) for node in ray.nodes() if node["Alive"])  # type: ignore[no-untyped-call]
    timer = _remote(Timer, job.config, whole_node).remote(job)
    try:
        seconds = ray.get(timer.run.remote(sample, plan))
        return seconds, ray.get(timer.machine.remote())
    finally:
        _end([timer])


def _remote(kind: type, config: RunConfig, num_cpus: float) -> Any:
    # Work units are pure, so a lost actor is started again and computes the same.
    return ray.remote(
        num_cpus=num_cpus,
        num_gpus=1 if config.cluster.use_gpu else 0,
        max_restarts=2,
        max_task_retries=2,
    )(kind)


def _collect(job: Job, done: str, pending: list[Any]) -> list[Any]:
    """Results in the order of the units, with a line of progress now and then."""
    shown = time.monotonic()
    results = []
    for index, reference in enumerate(pending):
        results.append(ray.get(reference))
        if time.monotonic() - shown > PROGRESS_EVERY_S:
            shown = time.monotonic()
            print(f"[{job.config.name}] {done} {index + 1} of {len(pending)} units", flush=True)
    return results


def _end(actors: list[Any]) -> None:
    """Returns when their processes are gone."""
    for actor in actors:
        ray.kill(actor)
    for actor in actors:
        with suppress(RayActorError):
            ray.get(actor.__ray_ready__.options(max_task_retries=0).remote())


def _check(job: Job, network: SkipRecNetwork, shards: ShardSet, row_R: Longs) -> None:
    if network.num_items != shards.num_items:
        raise ValueError(
            f"{job.run_folder} was trained on {network.num_items} items, {job.data_path} has "
            f"{shards.num_items}; evaluate on the data of the run (--set data.path=…)"
        )
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
    machine: dict[str, Any],
    command: str,
) -> dict[str, Any]:
    config = job.config
    made = provenance(config)
    return {
        "name": config.name,
        "command": command,
        **machine,
        "timing_batches": list(config.evaluation.timing_batches),
        "repeats": config.evaluation.timing_repeats,
        "history_length": shards.window - 1,
        "num_items": shards.num_items,
        "num_blocks": network.num_blocks,
        "width": config.model.width,
        "backbone": config.model.backbone,
        "policy": config.policy.model_dump(exclude_none=True),
        "init_from": config.init_from,
        "data": str(config.data.path),
        "split": shards.split,
        "split_kind": shards.manifest.recipe.get("split", {}).get("kind"),
        "rows": num_rows,
        "rows_of_split": shards.num_rows,
        "exclude_seen": config.evaluation.exclude_seen,
        "commit": made["commit"],
        "config_hash": made["config_hash"],
        "versions": made["versions"],
        "written": made["started"],
    }


def _publish(run_folder: Path, measured: Measured, report: dict[str, Any]) -> Path:
    """Writes beside, renames in; a folder with `report.json` has all the rest of it, too."""
    final = run_folder / "report.json"
    draft = Path(tempfile.mkdtemp(prefix=".report-", dir=run_folder))
    try:
        pq.write_table(measured.table, draft / "per_user.parquet", compression="zstd")
        pictures = draw_pictures(measured, report)
        for name, figure in pictures.items():
            figure.savefig(draft / name)
        (draft / "report.md").write_text(report_markdown(report, list(pictures)))
        final.unlink(missing_ok=True)
        for path in sorted(draft.iterdir()):
            path.replace(run_folder / path.name)
        write_evaluation(run_folder / "tensorboard", report, pictures)
        write_text_durably(final, json.dumps(report, indent=1))
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return final


def _cpu_model() -> str:
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()
