"""Checkpoints on disk. A checkpoint is valid if its files are the ones that its manifest lists.

checkpoints/step-00000120/   weights.safetensors   the weights of the network
                             engine/               the state of each rank, to resume bit for bit
                             state.json            step, rows seen, and the best step so far
                             manifest.json         bytes and sha256 of all files; written last
"""

from pathlib import Path

from pydantic import ValidationError

from skiprec.durable import file_sha256, flush_to_disk
from skiprec.frozen import Frozen
from skiprec.training.state import TrainState

MANIFEST = "manifest.json"
WEIGHTS = "weights.safetensors"
STATE = "state.json"
ENGINE = "engine"


class CheckpointFile(Frozen):
    """The size and checksum that a file of a valid checkpoint has."""

    bytes: int
    sha256: str


class CheckpointManifest(Frozen):
    """The contents of a finished checkpoint; see `verify`."""

    step: int
    world_size: int
    zero_stage: int
    config_hash: str
    files: dict[str, CheckpointFile]


def step_name(step: int) -> str:
    """The name of the folder of a step's checkpoint."""
    return f"step-{step:08d}"


def step_of(path: Path) -> int:
    """The step in the name of a checkpoint's folder."""
    return int(path.name.removeprefix("step-"))


def newest_step(folder: Path) -> int:
    """The step of the newest checkpoint with a manifest, valid or not; 0 if there is none."""
    manifests = folder.glob(f"step-*/{MANIFEST}")
    return max((step_of(manifest.parent) for manifest in manifests), default=0)


def newest_good(folder: Path) -> tuple[Path | None, list[str]]:
    """The newest valid checkpoint, or None, and the problem of each newer checkpoint."""
    skipped: list[str] = []
    for path in sorted(folder.glob("step-*"), reverse=True):
        problem = verify(path)
        if problem is None:
            return path, skipped
        skipped.append(f"{path.name}: {problem}")
    return None, skipped


def best_good(folder: Path) -> Path:
    """The checkpoint with the best validation so far, which the newest checkpoint records.

    Raises:
        ValueError: there is no checkpoint, none has been validated, or one of the two is damaged.
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
    """Raises ValueError: an older checkpoint would be another network than the reported one."""
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
    """The first problem of a checkpoint folder; None if the checkpoint is valid."""
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
        if file_sha256(file) != expected.sha256:
            return f"{name} does not have the sha256 of its manifest"
    return None


def describe_file(path: Path) -> CheckpointFile:
    """The size and checksum of a file, which is on the disk when this returns."""
    flush_to_disk(path)
    return CheckpointFile(bytes=path.stat().st_size, sha256=file_sha256(path))
