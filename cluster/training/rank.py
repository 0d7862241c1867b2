"""The work of one rank of a training run; it needs a process group but no Ray.

A save takes these steps: `skiprec.training.loop.train` calls `RankHooks.save`, which writes the
files (`checkpoint.save_checkpoint`) and then calls `Surroundings.after_checkpoint`. There, rank 0
starts an upload to the run's storage (`storage.Uploads`), and on Ray every rank reports to Ray
Train.
"""

import time
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from cluster.runs.data import older_items
from cluster.runs.events import log_event
from cluster.runs.folder import stop_is_requested
from cluster.training.build import build_engine, build_network
from cluster.training.checkpoint import checkpoint_folder, resume_point, save_checkpoint
from cluster.training.surroundings import Surroundings
from skiprec.checkpoints.files import ENGINE, WEIGHTS, read_state
from skiprec.checkpoints.network import start_from_backbone
from skiprec.config.run import RunConfig
from skiprec.data.batching import TrainingReader, validation_tiles
from skiprec.data.halves import SomeRows, rows_to_train, rows_to_validate
from skiprec.data.order import DataOrder
from skiprec.data.shards import ShardSet, items_hash
from skiprec.observability.sinks import JsonlSink, NoSink, SeveralSinks, Sink
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
    """Trains from the newest good checkpoint, or from step 0, to the end of the plan.

    A requested stop ends training earlier, with a checkpoint. Returns the last state.

    Raises:
        FloatingPointError: a loss or gradient norm is not finite; names the file with the rows.
        ValueError: the checkpoint was trained on other data.
        RuntimeError: another start owns the run, or this rank does not see rank 0's checkpoint.
    """
    data = Path(config.data.path)
    shards = rows_to_train(data, config.training)
    plan = make_plan(config.training, shards.num_rows)
    reader = training_reader(config, shards, comm)
    network = build_network(config, shards.num_items)
    surroundings.refuse_if_replaced()
    checkpoint, problems = resume_point(checkpoint_folder(config), comm, device)
    if checkpoint is None and config.init_from is not None:
        backbone = Path(config.root) / config.init_from
        start_from_backbone(network, backbone, config.init_growth, older_items(config))
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
    hooks = RankHooks(config, comm, engine, sink, surroundings)
    try:
        state = train(config, plan, engine, reader, comm, sink, hooks, state)
    except NotFiniteError as error:
        path = config.folder / f"not-finite-rank{comm.rank}.safetensors"
        save_rows(reader, error.step, path)
        raise FloatingPointError(
            f"{error} The rows of this rank in that step are in {path}"
        ) from error
    sink.close()
    hooks.wait_for_uploads(state.step)
    return state


class RankHooks:
    """What the training loop calls on one rank: validation, checkpoints and requests.

    It implements `skiprec.training.loop.LoopHooks`.
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
        self.validation_rows = rows_to_validate(Path(config.data.path), config.training)
        self.known_departures: set[str] = set()

    def clock(self) -> float:
        """Seconds since some fixed moment."""
        return time.perf_counter()

    def beat(self, step: int) -> None:
        """Passes the sign of life on to the surroundings."""
        self.surroundings.beat(step)

    def validate(self) -> Validation:
        """Scores this rank's part of the validation rows; the result is the same on every rank."""
        tiles = validation_tiles(
            self.validation_rows,
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
        """Writes a checkpoint, after the upload of the previous one has ended."""
        self.surroundings.refuse_if_replaced()
        self.wait_for_uploads(state.step)
        started = time.perf_counter()
        checkpoint = save_checkpoint(self.config, state, self.engine, self.comm)
        self.sink.scalars(state.step, {"time/save_s": time.perf_counter() - started})
        self.surroundings.after_checkpoint(state, checkpoint)

    def request(self) -> Request:
        """STOP if a person asked for it, SAVE if a machine will be taken away soon, else NONE."""
        departing = self.surroundings.departing_nodes() - self.known_departures
        if stop_is_requested(self.config):
            return Request.STOP
        if departing:
            self.known_departures.update(departing)
            message = f"saving: {len(departing)} machine(s) will leave"
            log_event(self.config, self.comm.rank, message)
            return Request.SAVE
        return Request.NONE

    def wait_for_uploads(self, step: int) -> None:
        """Returns when no rank is uploading; a collective.

        All ranks wait together and call `beat`: the watchdog of a rank that only waited for rank 0
        would take the wait for a step that hangs.
        """
        device = self.engine.device
        while float(
            self.comm.sum(torch.tensor([float(self.surroundings.is_uploading())], device=device))
        ):
            self.beat(step)


def training_reader(
    config: RunConfig, shards: ShardSet | SomeRows, comm: Collectives
) -> TrainingReader:
    """The reader of this rank's part of the training rows."""
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
    """Loads a checkpoint into the engine and returns the checkpoint's state.

    Raises:
        ValueError: the checkpoint has another seed or other data than `fresh`.
    """
    state = read_state(checkpoint)
    if (state.seed, state.manifest_hash) != (fresh.seed, fresh.manifest_hash):
        raise ValueError(
            f"{checkpoint} was trained with seed {state.seed} on the data of manifest "
            f"{state.manifest_hash[:12]}, here are seed {fresh.seed} and manifest "
            f"{fresh.manifest_hash[:12]}; rebuild the data or choose another run name"
        )
    engine.load(checkpoint / ENGINE, load_file(checkpoint / WEIGHTS))
    return state


def open_sink(config: RunConfig, resume_step: int) -> Sink:
    """The sink to which rank 0 writes its metrics; lines after `resume_step` are dropped."""
    # Drawing takes a second to import, and only rank 0 draws.
    from skiprec.observability.tensorboard import TensorBoardSink

    folder = config.folder
    settings = config.model_dump(include={"model", "policy", "loss", "training", "init_from"})
    return SeveralSinks(
        JsonlSink(folder / "metrics.jsonl", resume_step),
        TensorBoardSink(folder / "tensorboard", resume_step, settings),
    )


def save_rows(reader: TrainingReader, step: int, path: Path) -> None:
    """Writes this rank's rows of a step that failed to `path`, for an investigation."""
    batches = reader.micro_batches(step)
    save_file(
        {
            "items_BW": torch.cat([batch.items_BW for batch in batches]),
            "key_B": torch.cat([batch.key_B for batch in batches]),
        },
        path,
    )
