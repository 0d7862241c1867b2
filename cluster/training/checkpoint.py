"""Writing a run's checkpoints, and choosing the one to resume from; every rank takes part."""

import shutil
from collections.abc import Callable
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
from skiprec.durable import write_text_durably
from skiprec.training.collectives import Collectives
from skiprec.training.engine import Engine
from skiprec.training.state import TrainState


def save_checkpoint(
    folder: Path,
    state: TrainState,
    engine: Engine,
    comm: Collectives,
    barrier: Callable[[], None],
    keep: int,
    zero_stage: int,
    config_hash: str,
) -> None:
    """Writes `folder/step-…`; every rank calls it. The last `keep` and the best one stay."""
    name = step_name(state.step)
    draft = folder / f".{name}.draft"
    if comm.rank == 0:
        shutil.rmtree(draft, ignore_errors=True)
        (draft / ENGINE).mkdir(parents=True)
    barrier()
    engine.save(draft / ENGINE)
    weights = engine.network_weights()
    barrier()
    if comm.rank == 0:
        assert weights is not None
        save_file(weights, draft / WEIGHTS)
        (draft / STATE).write_text(state.model_dump_json(indent=1))
        manifest = CheckpointManifest(
            step=state.step,
            world_size=comm.world_size,
            zero_stage=zero_stage,
            config_hash=config_hash,
            files={
                str(path.relative_to(draft)): describe_file(path)
                for path in sorted(draft.rglob("*"))
                if path.is_file()
            },
        )
        write_text_durably(draft / MANIFEST, manifest.model_dump_json(indent=1))
        final = folder / name
        shutil.rmtree(final, ignore_errors=True)
        draft.rename(final)
        _prune(folder, keep, state.best_step)
    barrier()


def resume_point(
    folder: Path, comm: Collectives, device: torch.device
) -> tuple[Path | None, list[str]]:
    """The newest checkpoint that verifies, one for all ranks, and what was wrong with newer ones.

    Rank 0 looks, and sets the newer ones aside: they would count as the newest for whatever does
    not verify them, and new ones of lower steps would be removed as the older.

    Raises:
        RuntimeError: this rank does not see what rank 0 does.
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
            f"rank {comm.rank} does not see {path}, from which rank 0 goes on; the folder of a run "
            "must be on storage that all of its workers share, at one path"
        )
    return path, problems


def _prune(folder: Path, keep: int, best_step: int | None) -> None:
    best = None if best_step is None else step_name(best_step)
    for path in sorted(folder.glob("step-*"))[:-keep]:
        if path.name != best:
            shutil.rmtree(path)
