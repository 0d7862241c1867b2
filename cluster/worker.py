"""What each rank of a training run does; `run_rank` needs a process group but no Ray."""

import json
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from cluster.checkpoint import (
    ENGINE,
    WEIGHTS,
    read_state,
    resume_point,
    save_checkpoint,
    start_from_backbone,
    step_name,
)
from cluster.deepspeed_config import deepspeed_config
from cluster.deepspeed_engine import DeepSpeedEngine, prepare_process
from cluster.failures import Watchdog, step_failed
from cluster.process import keep_freed_memory
from cluster.run_folder import refuse_without_lease, stop_is_requested
from cluster.storage import Uploads, open_storage
from skiprec.config import RunConfig
from skiprec.config_files import config_hash
from skiprec.data.batching import TrainingReader, validation_tiles
from skiprec.data.order import DataOrder
from skiprec.data.shards import ShardSet, items_hash
from skiprec.network import SkipRecNetwork
from skiprec.observability.sinks import JsonlSink, NoSink, SeveralSinks, Sink
from skiprec.observability.tensorboard import TensorBoardSink
from skiprec.policy.cost import CostPolicy
from skiprec.policy.priced import PricedPolicy
from skiprec.policy_config import CostPolicyConfig
from skiprec.training.collectives import Collectives, ProcessGroup
from skiprec.training.engine import Engine, TorchEngine
from skiprec.training.loop import LoopHooks, NotFiniteError, Request, train
from skiprec.training.objective import Objective
from skiprec.training.optim import build_optimizer
from skiprec.training.plan import make_plan
from skiprec.training.state import TrainState
from skiprec.training.validation import (
    VALIDATION_TILE_ROWS,
    Validation,
    calibrate_price,
    validate,
)


@dataclass(frozen=True)
class RankHooks:
    """What a rank asks of whoever started it; every rank calls each of them equally often.

    `report` is called after each checkpoint, `fence` before anything is published (it raises if
    this start no longer owns the run), `departures` with each line of the log: the machines of the
    run that are about to be taken away. A checkpoint, and the end, wait until no rank `is_busy`.
    `beat` is `LoopHooks.beat`, `node` where this rank runs.
    """

    report: Callable[[TrainState, Path], None] = lambda state, checkpoint: None
    fence: Callable[[], None] = lambda: None
    departures: Callable[[], frozenset[str]] = frozenset
    is_busy: Callable[[], bool] = lambda: False
    beat: Callable[[int], None] = lambda step: None
    node: str = "local"


def ray_train_worker(job: dict[str, Any]) -> None:
    """The function that Ray Train calls on every worker. `job`: of `train.launch_training`."""
    import ray
    import ray.train
    import ray.train.torch

    config = RunConfig.model_validate(job["config"])
    torch.set_num_threads(config.cluster.threads_per_worker)
    keep_freed_memory()

    def report(state: TrainState, checkpoint: Path) -> None:
        # Ours is the checkpoint that counts; Ray keeps the metrics and a pointer to it. This call
        # is a barrier of all ranks.
        metrics = {"step": state.step, "mrr@20": state.best_metric, "checkpoint": str(checkpoint)}
        ray.train.report(metrics)

    def fence() -> None:
        refuse_without_lease(config, job["lease_token"])

    def departures() -> frozenset[str]:
        found = ray.train.get_preemption_info()
        return frozenset(found.preempted_node_ids if found is not None else ())

    comm = ProcessGroup()
    watchdog = None
    try:
        os.chdir(job["working_folder"])  # Ray Train moves workers; the paths of a run are the job's
        watchdog = Watchdog(config.folder, comm.rank, config.cluster.step_timeout_s)
        node = ray.get_runtime_context().get_node_id()
        hooks = RankHooks(report, fence, departures, beat=watchdog.beat, node=node)
        if comm.rank == 0:
            hooks = storage_hooks(config, job["lease_token"], hooks)
        run_rank(config, comm, ray.train.torch.get_device(), hooks)
    except Exception as error:
        raise step_failed(0 if watchdog is None else watchdog.step, error) from error
    finally:
        if watchdog is not None:
            watchdog.stop()


def storage_hooks(config: RunConfig, token: str, hooks: RankHooks) -> RankHooks:
    """`hooks` of rank 0, which also copies the run to its storage, beside the training."""
    storage = open_storage(config.cluster, config.name)
    if storage is None:
        return hooks
    uploads = Uploads(storage, config.folder, token, partial(_tell, config, 0))

    def report(state: TrainState, checkpoint: Path) -> None:
        uploads.start()
        hooks.report(state, checkpoint)

    # The next checkpoint may remove one that is being copied.
    return replace(hooks, report=report, is_busy=uploads.is_busy)


def run_rank(
    config: RunConfig,
    comm: Collectives,
    device: torch.device,
    hooks: RankHooks,
) -> TrainState:
    """Trains from the newest good checkpoint, or from the start, to the end of the plan.

    A stop that is requested meanwhile ends it earlier, with a checkpoint.
    """
    folder = config.folder
    shards = ShardSet.open(Path(config.data.path), "train")
    validation_shards = ShardSet.open(Path(config.data.path), "validation")
    training = config.training
    plan = make_plan(training, shards.num_rows)
    reader = TrainingReader(
        shards,
        DataOrder(training.seed, shards.num_rows),
        training.global_batch_rows,
        comm.world_size,
        comm.rank,
        training.micro_batch_rows,
    )
    network = build_network(config, shards.num_items)
    checkpoints = folder / "checkpoints"
    hooks.fence()
    found, problems = resume_point(checkpoints, comm, device)
    if found is None and config.init_from is not None:
        start_from_backbone(network, Path(config.root) / config.init_from, config.init_growth)
    engine = build_engine(config, network, reader, device)
    state = TrainState(
        seed=training.seed,
        manifest_hash=shards.manifest.content_hash,
        items_hash=items_hash(Path(config.data.path)),
    )
    if found is not None:
        state = _resume(found, state, engine)
    sink = _open_sink(config, state.step) if comm.rank == 0 else NoSink()
    for problem in problems:
        _tell(config, comm.rank, f"passed over checkpoint {problem}")
    message = f"training from step {state.step} to {plan.total_steps}"
    if comm.world_size > 1:
        message += f" on {comm.world_size} workers"
    _tell(config, comm.rank, message, world_size=comm.world_size, node=hooks.node)

    def barrier() -> None:
        comm.sum(torch.zeros(1, device=device))

    def wait_while_busy(step: int) -> None:
        # Together, or the watchdogs of the others would take the waiting for a hung step.
        while float(comm.sum(torch.tensor([float(hooks.is_busy())], device=device))):
            hooks.beat(step)

    def validate_now() -> Validation:
        tiles = validation_tiles(
            validation_shards,
            training.validation_rows,
            VALIDATION_TILE_ROWS,
            comm.world_size,
            comm.rank,
        )
        if isinstance(config.policy, CostPolicyConfig):
            assert isinstance(network.policy, CostPolicy)
            calibrate_price(engine, tiles, comm, network.policy, config.policy.target_keep_frac)
        found = validate(engine, tiles, comm, with_policy=config.policy.kind != "none")
        if isinstance(network.policy, PricedPolicy):
            found.scalars["policy/price"] = float(network.policy.price_1)
        return found

    def save(state: TrainState) -> None:
        hooks.fence()
        wait_while_busy(state.step)
        started = time.perf_counter()
        save_checkpoint(
            checkpoints,
            state,
            engine,
            comm,
            barrier,
            training.keep_checkpoints,
            config.cluster.zero_stage,
            config_hash(config),
        )
        sink.scalars(state.step, {"time/save_s": time.perf_counter() - started})
        hooks.report(state, checkpoints / step_name(state.step))

    known_departures: set[str] = set()

    def request() -> Request:
        departing = hooks.departures() - known_departures
        if stop_is_requested(config):
            return Request.STOP
        if departing:
            known_departures.update(departing)
            _tell(config, comm.rank, f"saving: {len(departing)} machine(s) will leave")
            return Request.SAVE
        return Request.NONE

    loop = LoopHooks(hooks.beat, validate_now, save, request, time.perf_counter)
    try:
        state = train(config, plan, engine, reader, comm, sink, loop, state)
    except NotFiniteError as error:
        path = folder / f"not-finite-rank{comm.rank}.safetensors"
        batches = reader.micro_batches(error.step)
        save_file(
            {
                "items_BW": torch.cat([batch.items_BW for batch in batches]),
                "key_B": torch.cat([batch.key_B for batch in batches]),
            },
            path,
        )
        raise FloatingPointError(f"{error} This rank's rows of that step: {path}") from error
    sink.close()
    wait_while_busy(state.step)
    return state


def build_network(config: RunConfig, num_items: int) -> SkipRecNetwork:
    """The network of `config` with its first random weights."""
    network = SkipRecNetwork(
        config.model, config.policy, num_items, config.training.activation_checkpointing
    )
    network.reset_parameters(config.training.seed)
    return network


def build_engine(
    config: RunConfig, network: SkipRecNetwork, reader: TrainingReader, device: torch.device
) -> Engine:
    """The engine that `training.engine` names."""
    objective = Objective(network, config)
    optimizer = build_optimizer(network, config.training)
    if config.training.engine == "torch":
        return TorchEngine(objective, optimizer, config.training, device)
    prepare_process(config.cluster.use_gpu)
    settings = deepspeed_config(config.training, config.cluster, reader.passes, reader.world_size)
    return DeepSpeedEngine(objective, optimizer, settings, config.training, device)


def _resume(path: Path, fresh: TrainState, engine: Engine) -> TrainState:
    state = read_state(path)
    if (state.seed, state.manifest_hash) != (fresh.seed, fresh.manifest_hash):
        raise ValueError(
            f"{path} was trained on other data (manifest {state.manifest_hash[:12]}, here "
            f"{fresh.manifest_hash[:12]}); rebuild the data or choose another run name"
        )
    engine.load(path / ENGINE, load_file(path / WEIGHTS))
    return state


def _open_sink(config: RunConfig, resume_step: int) -> Sink:
    folder = config.folder
    settings = config.model_dump(include={"model", "policy", "loss", "training", "init_from"})
    return SeveralSinks(
        JsonlSink(folder / "metrics.jsonl", resume_step),
        TensorBoardSink(folder / "tensorboard", resume_step, settings),
    )


def _tell(config: RunConfig, rank: int, message: str, **more: Any) -> None:
    event = {"time": time.time(), "pid": os.getpid(), "message": message, **more}
    with (config.folder / f"events-rank{rank}.jsonl").open("a") as file:
        file.write(json.dumps(event) + "\n")
