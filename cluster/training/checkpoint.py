"""Writes a run's checkpoints and picks the one to resume from; every rank takes part in both."""

import shutil
from pathlib import Path

import torch
from safetensors.torch import save_file

from skiprec.checkpoints.files import (
    ENGINE,
    MANIFEST,
    STATE,
    WEIGHTS,
    CheckpointManifest,
    describe_file,
    newest_good,
    step_name,
    step_of,
)
from skiprec.config.files import config_hash
from skiprec.config.run import RunConfig
from skiprec.durable import write_text_durably
from skiprec.training.collectives import Collectives
from skiprec.training.engine import Engine
from skiprec.training.state import TrainState


def checkpoint_folder(config: RunConfig) -> Path:
    """The folder of a run's checkpoints: one folder `step-…` for each."""
    return config.folder / "checkpoints"


def save_checkpoint(
    config: RunConfig, state: TrainState, engine: Engine, comm: Collectives
) -> Path:
    """Writes the checkpoint of `state.step` and returns its folder; every rank must call it.

    The files go into a draft folder, the manifest last. Renaming the draft seals the checkpoint.
    Older checkpoints are then removed, except the last `training.keep_checkpoints` and the best.
    """
    final = checkpoint_folder(config) / step_name(state.step)
    draft = final.with_name(f".{final.name}.draft")
    if comm.rank == 0:
        shutil.rmtree(draft, ignore_errors=True)
        (draft / ENGINE).mkdir(parents=True)
    _barrier(engine, comm)
    engine.save(draft / ENGINE)
    weights = engine.network_weights()
    _barrier(engine, comm)
    if comm.rank == 0:
        assert weights is not None
        save_file(weights, draft / WEIGHTS)
        (draft / STATE).write_text(state.model_dump_json(indent=1))
        _write_manifest(draft, config, state.step, comm.world_size)
        shutil.rmtree(final, ignore_errors=True)
        draft.rename(final)
        _prune(final.parent, config.training.keep_checkpoints, state.best_step)
    _barrier(engine, comm)
    return final


def resume_point(
    folder: Path, comm: Collectives, device: torch.device
) -> tuple[Path | None, list[str]]:
    """The newest checkpoint that verifies, the same on every rank, and the problems of newer ones.

    Every rank must call it. Rank 0 verifies the checkpoints and renames the newer, damaged ones.
    Left in place, they would count as the newest for code that does not verify them, and `_prune`
    would remove new checkpoints of lower steps as the older ones.

    Raises:
        RuntimeError: this rank does not see the checkpoint that rank 0 chose.
    """
    step = 0
    problems: list[str] = []
    if comm.rank == 0:
        path, problems = newest_good(folder)
        step = 0 if path is None else step_of(path)
        for damaged in [other for other in folder.glob("step-*") if step_of(other) > step]:
            aside = damaged.with_name(f".{damaged.name}.damaged")
            shutil.rmtree(aside, ignore_errors=True)
            damaged.rename(aside)
    step = int(comm.sum(torch.tensor([step], device=device)))
    if step == 0:
        return None, problems
    path = folder / step_name(step)
    if not (path / MANIFEST).exists():
        raise RuntimeError(
            f"rank {comm.rank} does not see {path}, the checkpoint from which rank 0 resumes; put "
            "the run's folder on storage that all workers share, at the same path on each machine"
        )
    return path, problems


def _barrier(engine: Engine, comm: Collectives) -> None:
    """Returns when every rank has called it."""
    comm.sum(torch.zeros(1, device=engine.device))


def _write_manifest(draft: Path, config: RunConfig, step: int, world_size: int) -> None:
    manifest = CheckpointManifest(
        step=step,
        world_size=world_size,
        zero_stage=config.cluster.zero_stage,
        config_hash=config_hash(config),
        files={
            str(path.relative_to(draft)): describe_file(path)
            for path in sorted(draft.rglob("*"))
            if path.is_file()
        },
    )
    write_text_durably(draft / MANIFEST, manifest.model_dump_json(indent=1))


def _prune(folder: Path, keep: int, best_step: int | None) -> None:
    """Removes all checkpoints except the last `keep` and the best one."""
    best = None if best_step is None else step_name(best_step)
    for path in sorted(folder.glob("step-*"))[:-keep]:
        if path.name != best:
            shutil.rmtree(path)
