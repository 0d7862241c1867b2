"""What each rank of a training run does. It needs a process group but no Ray."""

import time
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from cluster.runs.events import log_event
from cluster.runs.folder import stop_is_requested
from cluster.training.build import build_engine, build_network
from cluster.training.checkpoint import resume_point, save_checkpoint
from cluster.training.surroundings import Surroundings
from skiprec.checkpoints.files import ENGINE, WEIGHTS, read_state, step_name
from skiprec.checkpoints.network import start_from_backbone
from skiprec.config.files import config_hash
from skiprec.config.run import RunConfig
from skiprec.data.batching import TrainingReader, validation_tiles
from skiprec.data.order import DataOrder
from skiprec.data.shards import ShardSet, items_hash
from skiprec.observability.sinks import JsonlSink, NoSink, SeveralSinks, Sink
from skiprec.observability.tensorboard import TensorBoardSink
from skiprec.training.collectives import Collectives
from skiprec.training.engine import Engine
from skiprec.training.loop import NotFiniteError, Request, train
from skiprec.training.plan import make_plan
from skiprec.training.state import TrainState
from skiprec.training.validation import (
    VALIDATION_TILE_ROWS,
    Validation,
    decide_rows,
    validate,
)


def run_rank(
    config: RunConfig, comm: Collectives, device: torch.device, surroundings: Surroundings
) -> TrainState:
    """Trains from the newest good checkpoint, or from the start, to the end of the plan.

    A stop that is requested meanwhile ends it earlier, with a checkpoint.
    """
    data = Path(config.data.path)
    shards = ShardSet.open(data, "train")
    plan = make_plan(config.training, shards.num_rows)
    reader = training_reader(config, shards, comm)
    network = build_network(config, shards.num_items)
    surroundings.refuse_if_replaced()
    checkpoint, problems = resume_point(checkpoints_of(config), comm, device)
    if checkpoint is None and config.init_from is not None:
        start_from_backbone(network, Path(config.root) / config.init_from, config.init_growth)
    engine = build_engine(config, network, reader, device)
    state = TrainState(
        seed=config.training.seed,
        manifest_hash=shards.manifest.content_hash,
        items_hash=items_hash(data),
    )
    if checkpoint is not None:
        state = resume(checkpoint, state, engine)
    sink = open_sink(config, state.step) if comm.rank == 0 else NoSink()
    for problem in problems:
        log_event(config, comm.rank, f"passed over checkpoint {problem}")
    message = f"training from step {state.step} to {plan.total_steps}"
    if comm.world_size > 1:
        message += f" on {comm.world_size} workers"
    log_event(config, comm.rank, message, world_size=comm.world_size, node=surroundings.node)
    rank = Rank(config, comm, engine, sink, surroundings)
    try:
        state = train(config, plan, engine, reader, comm, sink, rank, state)
    except NotFiniteError as error:
        path = config.folder / f"not-finite-rank{comm.rank}.safetensors"
        save_rows(reader, error.step, path)
        raise FloatingPointError(f"{error} This rank's rows of that step: {path}") from error
    sink.close()
    rank.wait_for_uploads(state.step)
    return state


class Rank:
    """The hooks of the training loop on one rank: validation, checkpoints and requests.

    See `skiprec.training.loop.LoopHooks`.
    """

    def __init__(
        self,
        config: RunConfig,
        comm: Collectives,
        engine: Engine,
        sink: Sink,
        surroundings: Surroundings,
    ) -> None:
        self.config, self.comm, self.engine = config, comm, engine
        self.sink, self.surroundings = sink, surroundings
        self.validation_shards = ShardSet.open(Path(config.data.path), "validation")
        self.known_departures: set[str] = set()

    def clock(self) -> float:
        """Seconds."""
        return time.perf_counter()

    def beat(self, step: int) -> None:
        """Passed on to the surroundings."""
        self.surroundings.beat(step)

    def validate(self) -> Validation:
        """Scores this rank's share of the validation rows; the result is the same on every rank."""
        tiles = validation_tiles(
            self.validation_shards,
            self.config.training.validation_rows,
            VALIDATION_TILE_ROWS,
            self.comm.world_size,
            self.comm.rank,
        )
        policy = self.engine.objective.policy_training
        policy.before_validation(lambda: decide_rows(self.engine, tiles, self.comm))
        validation = validate(self.engine, tiles, self.comm, with_policy=self.config.policy.decides)
        validation.scalars.update(policy.validation_scalars())
        return validation

    def save(self, state: TrainState) -> None:
        """Writes a checkpoint, after the copy of the last one has ended."""
        self.surroundings.refuse_if_replaced()
        self.wait_for_uploads(state.step)
        started = time.perf_counter()
        checkpoints = checkpoints_of(self.config)
        save_checkpoint(
            checkpoints,
            state,
            self.engine,
            self.comm,
            self.barrier,
            self.config.training.keep_checkpoints,
            self.config.cluster.zero_stage,
            config_hash(self.config),
        )
        self.sink.scalars(state.step, {"time/save_s": time.perf_counter() - started})
        self.surroundings.checkpoint_is_sealed(state, checkpoints / step_name(state.step))

    def request(self) -> Request:
        """Stop, where a person asked for it; save, where a machine is about to be taken away."""
        departing = self.surroundings.departing_nodes() - self.known_departures
        if stop_is_requested(self.config):
            return Request.STOP
        if departing:
            self.known_departures.update(departing)
            message = f"saving: {len(departing)} machine(s) will leave"
            log_event(self.config, self.comm.rank, message)
            return Request.SAVE
        return Request.NONE

    def barrier(self) -> None:
        """Returns when every rank has come here."""
        self.comm.sum(torch.zeros(1, device=self.engine.device))

    def wait_for_uploads(self, step: int) -> None:
        """Returns when no rank is uploading. All ranks wait together, beating: the watchdog of a
        rank that only waited for rank 0 would take the wait for a step that hangs."""
        device = self.engine.device
        while float(
            self.comm.sum(torch.tensor([float(self.surroundings.is_uploading())], device=device))
        ):
            self.beat(step)


def checkpoints_of(config: RunConfig) -> Path:
    """The folder of a run's checkpoints."""
    return config.folder / "checkpoints"


def training_reader(config: RunConfig, shards: ShardSet, comm: Collectives) -> TrainingReader:
    """The training rows of this rank."""
    training = config.training
    return TrainingReader(
        shards,
        DataOrder(training.seed, shards.num_rows),
        training.global_batch_rows,
        comm.world_size,
        comm.rank,
        training.micro_batch_rows,
    )


def resume(checkpoint: Path, fresh: TrainState, engine: Engine) -> TrainState:
    """Loads a checkpoint into the engine; returns its state.

    Raises:
        ValueError: it was trained on other data than `fresh` names.
    """
    state = read_state(checkpoint)
    if (state.seed, state.manifest_hash) != (fresh.seed, fresh.manifest_hash):
        raise ValueError(
            f"{checkpoint} was trained on other data (manifest {state.manifest_hash[:12]}, here "
            f"{fresh.manifest_hash[:12]}); rebuild the data or choose another run name"
        )
    engine.load(checkpoint / ENGINE, load_file(checkpoint / WEIGHTS))
    return state


def open_sink(config: RunConfig, resume_step: int) -> Sink:
    """Where rank 0 writes its metrics."""
    folder = config.folder
    settings = config.model_dump(include={"model", "policy", "loss", "training", "init_from"})
    return SeveralSinks(
        JsonlSink(folder / "metrics.jsonl", resume_step),
        TensorBoardSink(folder / "tensorboard", resume_step, settings),
    )


def save_rows(reader: TrainingReader, step: int, path: Path) -> None:
    """Writes this rank's rows of a step, for whoever looks into a step that failed."""
    batches = reader.micro_batches(step)
    save_file(
        {
            "items_BW": torch.cat([batch.items_BW for batch in batches]),
            "key_B": torch.cat([batch.key_B for batch in batches]),
        },
        path,
    )
