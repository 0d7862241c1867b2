"""Checkpoints that are whole or not there: a folder counts once its manifest verifies.

checkpoints/step-00000120/   weights.safetensors   the network, for whoever uses it
                             engine/               what each rank needs to go on bit for bit
                             state.json            step, cursor, which step was the best so far
                             manifest.json         bytes and sha256 of all of these; written last
"""

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import torch
from pydantic import BaseModel, ConfigDict, ValidationError
from safetensors.torch import load_file, save_file
from torch import Tensor

from skiprec.config import ModelConfig, RunConfig
from skiprec.models.growth import Growth, grown
from skiprec.models.nextitnet import dilation_cycle
from skiprec.models.registry import block_cycle
from skiprec.models.sasrec import num_heads
from skiprec.network import SkipRecNetwork
from skiprec.training.collectives import Collectives
from skiprec.training.engine import Engine
from skiprec.training.state import TrainState

MANIFEST = "manifest.json"
WEIGHTS = "weights.safetensors"
STATE = "state.json"
ENGINE = "engine"
POLICY = "policy."


class CheckpointFile(BaseModel):
    """What a file must be for the checkpoint to count."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    bytes: int
    sha256: str


class CheckpointManifest(BaseModel):
    """The seal of a checkpoint."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    step: int
    world_size: int
    zero_stage: int
    config_hash: str
    files: dict[str, CheckpointFile]


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
                str(path.relative_to(draft)): _describe(path)
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


def step_name(step: int) -> str:
    """The folder of a step's checkpoint."""
    return f"step-{step:08d}"


def newest_step(folder: Path) -> int:
    """The step of the newest sealed checkpoint, good or not; 0 if there is none."""
    return max((_step_of(seal.parent) for seal in folder.glob(f"step-*/{MANIFEST}")), default=0)


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
        step = 0 if path is None else _step_of(path)
        for damaged in [other for other in folder.glob("step-*") if _step_of(other) > step]:
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


def newest_good(folder: Path) -> tuple[Path | None, list[str]]:
    """The newest checkpoint that verifies, and why each newer one was passed over."""
    skipped: list[str] = []
    for path in sorted(folder.glob("step-*"), reverse=True):
        problem = verify(path)
        if problem is None:
            return path, skipped
        skipped.append(f"{path.name}: {problem}")
    return None, skipped


def best_good(folder: Path) -> Path:
    """The best checkpoint, verified; the newest one knows which it is.

    Raises:
        ValueError: there is none, or it is damaged.
    """
    steps = sorted(folder.glob("step-*"))
    if not steps:
        raise ValueError(
            f"{folder.parent} has no finished checkpoint (no step-… in {folder.name}); train it "
            "first, or name another run"
        )
    _refuse_damaged(steps[-1])
    best_step = read_state(steps[-1]).best_step
    if best_step is None:
        raise ValueError(f"{folder.parent} has not been validated yet; train it to its end first")
    path = folder / step_name(best_step)
    if path != steps[-1]:
        _refuse_damaged(path)
    return path


def _refuse_damaged(path: Path) -> None:
    """An older one in its place would be another network than the run's result tells of."""
    problem = verify(path)
    if problem is not None:
        raise ValueError(f"the checkpoint {path} is damaged: {problem}; train the run again")


def read_manifest(path: Path) -> CheckpointManifest:
    """The manifest of one checkpoint folder."""
    return CheckpointManifest.model_validate_json((path / MANIFEST).read_text())


def read_state(path: Path) -> TrainState:
    """The training state in one checkpoint folder."""
    return TrainState.model_validate_json((path / STATE).read_text())


def verify(path: Path) -> str | None:
    """What is wrong with a checkpoint folder; None if nothing is."""
    try:
        manifest = read_manifest(path)
    except FileNotFoundError:
        return "no manifest, so it was never finished"
    except ValidationError:
        return "its manifest is torn"
    for name, expected in manifest.files.items():
        file = path / name
        if not file.exists():
            return f"{name} is missing"
        if file.stat().st_size != expected.bytes:
            return f"{name} has {file.stat().st_size} bytes, its manifest says {expected.bytes}"
        if _sha256(file) != expected.sha256:
            return f"{name} does not have the sha256 of its manifest"
    return None


def load_network(run_folder: Path) -> tuple[RunConfig, SkipRecNetwork]:
    """The configuration of a run and its best network, verified, in evaluation mode."""
    config_file = run_folder / "config.json"
    if not config_file.exists():
        raise ValueError(
            f"{run_folder} is not a run folder (no config.json); expected <root>/<name> of a "
            "trained run"
        )
    config = RunConfig.model_validate(json.loads(config_file.read_text()))
    path = best_good(run_folder / "checkpoints")
    weights = load_file(path / WEIGHTS)
    num_items = len(weights["head.weight_VD"])
    network = SkipRecNetwork(config.model, config.policy, num_items)
    differing = _differing(weights, network.state_dict())
    if differing:
        raise ValueError(
            f"{path} does not hold the network that {config_file} describes; {len(differing)} "
            f"weights differ, first {differing[0]}. It is of another version or was edited: train "
            "the run again"
        )
    network.load_state_dict(weights)
    return config, network.eval()


def start_from_backbone(
    network: SkipRecNetwork, run_folder: Path, growth: Growth | None = None
) -> None:
    """Two-stage: copies every weight of a run's best backbone, and its items into the policy's.

    Args:
        growth: lets the run have fewer blocks, which are copied (`skiprec.models.growth`).

    Raises:
        ValueError: the run's backbone is another one, or of another shape, or has other items.
    """
    config, trained = load_network(run_folder)
    _same_function(config, network.model_config)
    own = network.state_dict()
    weights = {n: w for n, w in trained.state_dict().items() if not n.startswith(POLICY)}
    if growth is not None:
        cycle = block_cycle(config.model)
        weights = grown(weights, trained.num_blocks, network.num_blocks, cycle, growth)
    differing = _differing(weights, {n: w for n, w in own.items() if not n.startswith(POLICY)})
    if differing:
        raise ValueError(
            f"init_from={config.name!r}: expected {network.num_blocks} blocks of width "
            f"{network.model_config.width} for {network.num_items} items, found "
            f"{trained.num_blocks} of width {config.model.width} for {trained.num_items}; "
            f"{len(differing)} weights differ, first {differing[0]}. Pretrain a backbone of this "
            "shape on this data, or name another run"
        )
    network.load_state_dict(weights, strict=False)
    table = own.get("policy.trunk.embedding.table.weight")
    if table is not None and table.shape == weights["embedding.table.weight"].shape:
        network.load_state_dict(
            {"policy.trunk.embedding.table.weight": weights["embedding.table.weight"]},
            strict=False,
        )


SAME_FUNCTION: dict[str, Callable[[ModelConfig], object]] = {
    "backbone": lambda model: model.backbone,
    "dilations": dilation_cycle,
    "num_heads": num_heads,
}


def _same_function(config: RunConfig, wanted: ModelConfig) -> None:
    """Refuses what shapes would not tell: other blocks, dilations or heads with like weights."""
    for key, meaning in SAME_FUNCTION.items():
        found, expected = meaning(config.model), meaning(wanted)
        if found != expected:
            raise ValueError(
                f"init_from={config.name!r} is another architecture: expected model.{key}="
                f"{expected!r}, found {found!r}; name another run, or change model.{key}"
            )


def _differing(there: dict[str, Tensor], here: dict[str, Tensor]) -> list[str]:
    """Each weight that has not the same shape in both, in words."""

    def shape(weights: dict[str, Tensor], name: str) -> str:
        return str(tuple(weights[name].shape)) if name in weights else "absent"

    return [
        f"{name}: {shape(there, name)} there, {shape(here, name)} here"
        for name in sorted(there.keys() | here.keys())
        if shape(there, name) != shape(here, name)
    ]


def write_text_durably(path: Path, text: str) -> None:
    """Writes beside, flushes to the disk, and renames over: readers see the old or the new."""
    draft = path.with_name(f".{path.name}.{os.getpid()}.draft")
    with draft.open("w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)


def _step_of(path: Path) -> int:
    return int(path.name.removeprefix("step-"))


def _describe(path: Path) -> CheckpointFile:
    with path.open("rb") as file:
        os.fsync(file.fileno())
    return CheckpointFile(bytes=path.stat().st_size, sha256=_sha256(path))


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _prune(folder: Path, keep: int, best_step: int | None) -> None:
    best = None if best_step is None else step_name(best_step)
    for path in sorted(folder.glob("step-*"))[:-keep]:
        if path.name != best:
            shutil.rmtree(path)
