"""Launches one training run on Ray Train; jobs, studies and sweeps all come through here."""

import json
import os
import time
from pathlib import Path
from typing import Any

import ray.train
import torch
from ray.train.torch import TorchConfig, TorchTrainer

from cluster.machine.room import wait_for_room, worker_resources
from cluster.machine.session import ray_session
from cluster.runs.data import ensure_data, refuse_other_items
from cluster.runs.folder import clear_stop, lease, open_run
from cluster.runs.storage import Storage, open_storage, restore, take_over, upload
from cluster.training.build import build_network
from cluster.training.failures import FailureReports, RunFailedError
from cluster.training.progress import shown_progress
from cluster.training.rank import run_rank
from cluster.training.surroundings import Surroundings
from cluster.training.worker import ray_train_worker
from skiprec.checkpoints.files import newest_good, read_state
from skiprec.checkpoints.network import start_from_backbone
from skiprec.config.run import RunConfig
from skiprec.data.manifest import read_manifest, verify_files
from skiprec.data.shards import ShardSet
from skiprec.durable import write_text_durably
from skiprec.terminal import say
from skiprec.training.collectives import SingleProcess
from skiprec.training.plan import make_plan

# How long an elastic run waits for room before it asks for fewer workers (Ray's own limit is 60 s).
# Ray's autoscaling coordinator looks at the cluster every 20 s: after a machine is lost, Ray may
# ask for that machine's CPUs once more, in vain.
ELASTIC_START_TIMEOUT_S = "25"


class RunStoppedError(RuntimeError):
    """The run ended before its last step because it was asked to; it can go on."""


def launch_training(config: RunConfig) -> dict[str, Any]:
    """Trains, resumes or, when the run is finished, only reports; returns `result.json`.

    With `cluster.num_workers = 0` it trains in this process, without Ray, and what goes wrong there
    is raised as it is.

    Raises:
        ValueError: anything a user can mend: data, name, configuration, the run it starts from,
            too few machines.
        RunStoppedError: it was stopped, by `run_folder.request_stop`.
        RunFailedError: workers failed more than `cluster.max_failures` times, or would again.
    """
    with lease(config) as token:
        storage = _restored(config)
        finished = open_run(config)
        if storage is not None:
            take_over(storage, token)  # not before this start has shown that it is of the same run
        if finished is not None:
            say(f"[{config.name}] is finished already; its result is in {config.folder}")
            _last_upload(config, storage, token)
            return finished
        clear_stop(config)
        ensure_data(config.data)
        check_inputs(config)
        started = time.time()
        workers = config.cluster.num_workers
        where = f"{workers} worker(s)" if workers else "in this process"
        say(f"[{config.name}] starting {where}")
        if workers == 0:
            with shown_progress(config.folder, config.name):
                _train_here(config, token)
        else:
            with ray_session():
                _fit(config, token)
        result = _result(config, time.time() - started)
        write_text_durably(config.folder / "result.json", json.dumps(result, indent=1))
        _last_upload(config, storage, token)
        return result


def _restored(config: RunConfig) -> Storage | None:
    """The run's storage, after its folder has what that has; also the run it starts from."""
    if config.init_from is not None:
        other = open_storage(config.cluster, config.init_from)
        if other is not None:
            restore(other, Path(config.root) / config.init_from)
    storage = open_storage(config.cluster, config.name)
    if storage is not None:
        step = restore(storage, config.folder)
        if step is not None:
            say(f"[{config.name}] restored step {step} from {config.cluster.storage_path}")
    return storage


def _last_upload(config: RunConfig, storage: Storage | None, token: str) -> None:
    if storage is None:
        return
    try:
        upload(storage, config.folder, token)
    except OSError as error:
        raise ValueError(
            f"run {config.name!r} is finished, but its copy to {config.cluster.storage_path} "
            f"failed: {error}; the same command tries that again"
        ) from error


def _train_here(config: RunConfig, token: str) -> None:
    """The only rank, in this process: for a debugger, and where starting workers takes longest."""
    torch.set_num_threads(config.cluster.threads_per_worker)
    device = torch.device("cuda" if config.cluster.use_gpu else "cpu")
    run_rank(config, SingleProcess(), device, Surroundings(config, token))


def _fit(config: RunConfig, token: str) -> None:
    cluster, worker = config.cluster, worker_resources(config.cluster)
    least = cluster.min_workers or cluster.num_workers
    wanted = "training workers (cluster.num_workers or min_workers, cluster.threads_per_worker)"
    wait_for_room(config.name, worker, least, wanted, cluster.room_timeout_s)
    if cluster.min_workers is not None:
        os.environ.setdefault("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", ELASTIC_START_TIMEOUT_S)
    attempts = config.folder.resolve() / "ray"
    attempts.mkdir(exist_ok=True)
    # A name of its own for each start: Ray then has no earlier state to restore (which it writes in
    # place and may have torn), and what we resume from is our own verified checkpoint.
    name = f"start-{len(list(attempts.iterdir())):04d}"
    trainer = TorchTrainer(
        ray_train_worker,
        train_loop_config={
            "config": config.model_dump(mode="json"),
            "working_folder": str(Path.cwd()),
            "lease_token": token,
        },
        # mypy sees the types of Ray Train V1.
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


def check_inputs(config: RunConfig) -> None:
    """Finds here, with a clear message, what would fail on every worker, or be learned from."""
    data = Path(config.data.path)
    verify_files(data, read_manifest(data))
    for split in ("train", "validation"):
        shards = ShardSet.open(Path(config.data.path), split)
        if shards.num_rows == 0:
            raise ValueError(
                f"split {split!r} of {config.data.path} has no rows; build the data with more "
                "users or a larger share for it"
            )
    network = build_network(config, shards.num_items)
    if config.init_from is not None:
        backbone = Path(config.root) / config.init_from
        if not (backbone / "result.json").exists():
            raise ValueError(
                f"init_from={config.init_from!r}: {backbone} is not a finished run; train it "
                "first, by jobs/pretrain_backbone.py with its own configuration, or with this one "
                "if that has a [pretraining] section"
            )
        start_from_backbone(network, backbone, config.init_growth)
        refuse_other_items(backbone, network.num_items, data)


def _result(config: RunConfig, seconds: float) -> dict[str, Any]:
    path, _ = newest_good(config.folder / "checkpoints")
    assert path is not None, "a run that ended has a checkpoint of its last step"
    state = read_state(path)
    num_rows = ShardSet.open(Path(config.data.path), "train").num_rows
    total_steps = make_plan(config.training, num_rows).total_steps
    if state.step < total_steps and not state.stopped_early:
        raise RunStoppedError(
            f"run {config.name!r} was stopped at step {state.step} of {total_steps}; the same "
            "command goes on from there"
        )
    return {
        "name": config.name,
        "steps": state.step,
        "stopped_early": state.stopped_early,
        "best_step": state.best_step,
        "best_mrr@20": state.best_metric,
        "seconds_this_start": round(seconds, 1),
    }
