"""Launches one training run; jobs, studies and sweeps all call `launch_training`.

It takes the run's lease, restores the run from its storage, checks the inputs and starts the ranks.
With workers, Ray Train calls `worker.ray_train_worker` on each of them, and that calls
`rank.run_rank`; without workers, `run_rank` is called in this process. `failures.FailureReports`
then decides between restart and end when a worker fails.
"""

import json
import os
import time
from pathlib import Path
from typing import Any

import ray.train
import torch
from ray.train.torch import TorchConfig

from cluster.machine.room import wait_for_room, worker_resources
from cluster.machine.session import ray_session
from cluster.runs.data import ensure_data, keep_item_ids, older_items, refuse_other_items
from cluster.runs.folder import clear_stop, lease, open_run
from cluster.runs.storage import Storage, open_storage, restore, take_over, upload
from cluster.training.build import build_network
from cluster.training.checkpoint import checkpoint_folder
from cluster.training.failures import FailureReports, RunFailedError
from cluster.training.progress import shown_progress
from cluster.training.rank import run_rank
from cluster.training.surroundings import Surroundings
from cluster.training.trainer import Trainer
from cluster.training.worker import ray_train_worker
from skiprec.checkpoints.catalogue import ItemMatch
from skiprec.checkpoints.files import newest_good, read_state
from skiprec.checkpoints.network import start_from_backbone
from skiprec.config.run import RunConfig
from skiprec.data.halves import rows_to_train, rows_to_validate
from skiprec.data.manifest import read_manifest, verify_files
from skiprec.data.shards import ShardSet
from skiprec.durable import write_text_durably
from skiprec.terminal import say
from skiprec.training.collectives import SingleProcess
from skiprec.training.plan import make_plan

# Seconds that an elastic run waits for CPUs before it asks for fewer workers (Ray's default: 60).
# Ray's autoscaling coordinator looks at the cluster every 20 s, so after a machine is lost, Ray may
# ask for that machine's CPUs once more, in vain.
ELASTIC_START_TIMEOUT_S = "25"
# Seconds between two looks of Ray Train's controller at its workers (Ray's default: 2). Workers
# wait for this look at every checkpoint, and it is what notices a dead worker.
HEALTH_CHECK_INTERVAL_S = "0.25"


class RunStoppedError(RuntimeError):
    """The run was stopped on request before its last step; the same command resumes it."""


def launch_training(config: RunConfig) -> dict[str, Any]:
    """Trains or resumes a run and returns the content of its `result.json`.

    A finished run is not trained again. With `cluster.num_workers = 0` training happens in this
    process without Ray, and its errors are raised unchanged.

    Raises:
        ValueError: anything a user can fix: data, name, configuration, the run of `init_from`,
            too few machines.
        RunStoppedError: the run was stopped by `cluster.runs.folder.request_stop`.
        RunFailedError: workers failed more than `cluster.max_failures` times, or a retry would not
            help.
    """
    with lease(config) as lease_token:
        storage = _restore_from_storage(config)
        finished = open_run(config)
        if storage is not None:
            take_over(storage, lease_token)  # only now: open_run accepted the configuration
        if finished is not None:
            say(f"[{config.name}] is finished already; its result is in {config.folder}")
            _upload_result(config, storage, lease_token)
            return finished
        clear_stop(config)
        ensure_data(config.data)
        match = check_inputs(config)
        keep_item_ids(config.folder, Path(config.data.path))
        if match is not None:
            say(f"[{config.name}] items against those of {config.init_from}: {match.text}")
        started = time.time()
        workers = config.cluster.num_workers
        where = f"{workers} worker(s)" if workers else "in this process"
        say(f"[{config.name}] starting {where}")
        if workers == 0:
            with shown_progress(config.folder, config.name):
                _train_in_this_process(config, lease_token)
        else:
            with ray_session():
                _train_on_ray(config, lease_token)
        result = _result(config, time.time() - started)
        if match is not None:
            result["items"] = match.counts
        write_text_durably(config.folder / "result.json", json.dumps(result, indent=1))
        _upload_result(config, storage, lease_token)
        return result


def _restore_from_storage(config: RunConfig) -> Storage | None:
    """Brings the run's folder, and that of `init_from`, up to date; returns the run's storage."""
    if config.init_from is not None:
        backbone_storage = open_storage(config.cluster, config.init_from)
        if backbone_storage is not None:
            restore(backbone_storage, Path(config.root) / config.init_from)
    storage = open_storage(config.cluster, config.name)
    if storage is not None:
        step = restore(storage, config.folder)
        if step is not None:
            say(f"[{config.name}] restored step {step} from {config.cluster.storage_path}")
    return storage


def _upload_result(config: RunConfig, storage: Storage | None, lease_token: str) -> None:
    """Copies the finished run to its storage, if it has one."""
    if storage is None:
        return
    try:
        upload(storage, config.folder, lease_token)
    except OSError as error:
        raise ValueError(
            f"run {config.name!r} is finished, but its upload to {config.cluster.storage_path} "
            f"failed: {error}; run the same command again to retry the upload"
        ) from error


def _train_in_this_process(config: RunConfig, lease_token: str) -> None:
    """Trains on one rank in this process, for debuggers and for short runs."""
    torch.set_num_threads(config.cluster.threads_per_worker)
    device = torch.device("cuda" if config.cluster.use_gpu else "cpu")
    run_rank(config, SingleProcess(), device, Surroundings(config, lease_token))


def _train_on_ray(config: RunConfig, lease_token: str) -> None:
    """Trains on the workers of a Ray Train trainer.

    Raises:
        ValueError: the cluster has no room for the workers.
        RunFailedError: the run ended before its last step.
    """
    cluster, worker = config.cluster, worker_resources(config.cluster)
    least = cluster.min_workers or cluster.num_workers
    wanted = "training workers (cluster.num_workers or min_workers, cluster.threads_per_worker)"
    wait_for_room(config.name, worker, least, wanted, cluster.room_timeout_s)
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", HEALTH_CHECK_INTERVAL_S)
    if cluster.min_workers is not None:
        os.environ.setdefault("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", ELASTIC_START_TIMEOUT_S)
    attempts = config.folder.resolve() / "ray"
    attempts.mkdir(exist_ok=True)
    # Each start has its own name, so that Ray finds no earlier state to restore: Ray writes that
    # state in place, so it may be torn. We resume from our own verified checkpoint instead.
    name = f"start-{len(list(attempts.iterdir())):04d}"
    trainer = Trainer(
        ray_train_worker,
        train_loop_config={
            "config": config.model_dump(mode="json"),
            "working_folder": str(Path.cwd()),
            "lease_token": lease_token,
        },
        # The ignored types: mypy sees the signatures of Ray Train V1, and we use V2.
        scaling_config=ray.train.ScalingConfig(
            num_workers=cluster.num_workers  # type: ignore[arg-type]
            if cluster.min_workers is None
            else (cluster.min_workers, cluster.num_workers),
            elastic_resize_monitor_interval_s=cluster.resize_check_s,  # type: ignore[call-arg]
            use_gpu=cluster.use_gpu,
            resources_per_worker=worker,
        ),
        run_config=ray.train.RunConfig(
            name=name,
            storage_path=str(attempts),
            failure_config=ray.train.FailureConfig(max_failures=cluster.max_failures),
            callbacks=[
                FailureReports(config.folder.resolve(), cluster.max_failures)  # type: ignore[list-item]
            ],
        ),
        torch_config=TorchConfig(
            backend="nccl" if cluster.use_gpu else "gloo",
            timeout_s=cluster.process_group_timeout_s,
        ),
    )
    try:
        with shown_progress(config.folder, config.name):
            trainer.fit()
    except ray.train.TrainingFailedError as error:
        reason = getattr(error, "controller_failure", error)
        if isinstance(reason, RunFailedError):
            raise reason from None
        raise RunFailedError(f"run {config.name!r} failed: {reason}") from error


def check_inputs(config: RunConfig) -> ItemMatch | None:
    """Checks the data and the run of `init_from` before any worker starts.

    Returns how the items relate to those of that run, if `init_items` says that they may differ.

    Raises:
        ValueError: the data or that run is missing, damaged or does not fit the configuration.
    """
    data = Path(config.data.path)
    verify_files(data, read_manifest(data))
    for split in ("train", "validation"):
        shards = ShardSet.open(Path(config.data.path), split)
        if shards.num_rows == 0:
            raise ValueError(
                f"split {split!r} of {config.data.path} has no rows; build the data with more "
                "users or a larger share for this split"
            )
    for half in (rows_to_train, rows_to_validate) if config.training.fit_on else ():
        if half(data, config.training).num_rows == 0:
            raise ValueError(
                f"training.fit_on={config.training.fit_on!r} parts the users of the validation "
                f"split of {data}, and one part has no rows; build the data with more of them"
            )
    network = build_network(config, shards.num_items)
    if config.init_from is not None:
        backbone = Path(config.root) / config.init_from
        if not (backbone / "result.json").exists():
            raise ValueError(
                f"init_from={config.init_from!r}: {backbone} is not a finished run; train it "
                "first with jobs/pretrain_backbone.py, on its own configuration file, or on this "
                "one if it has a [pretraining] section"
            )
        items = older_items(config)
        start_from_backbone(network, backbone, config.init_growth, items)
        if items is None:
            refuse_other_items(backbone, network.num_items, data)
        return None if items is None else items[0]
    return None


def _result(config: RunConfig, seconds: float) -> dict[str, Any]:
    """The content of `result.json`, from the newest checkpoint.

    Raises:
        RunStoppedError: that checkpoint is not the end of the run.
    """
    path, _ = newest_good(checkpoint_folder(config))
    assert path is not None, "a run that ended has a checkpoint"
    state = read_state(path)
    num_rows = rows_to_train(Path(config.data.path), config.training).num_rows
    total_steps = make_plan(config.training, num_rows).total_steps
    if state.step < total_steps and not state.stopped_early:
        raise RunStoppedError(
            f"run {config.name!r} was stopped at step {state.step} of {total_steps}; the same "
            "command resumes it"
        )
    return {
        "name": config.name,
        "steps": state.step,
        "stopped_early": state.stopped_early,
        "best_step": state.best_step,
        "best_mrr@20": state.best_metric,
        "seconds_this_start": round(seconds, 1),
    }
