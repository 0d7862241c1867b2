"""A run's copy on storage that outlives the cluster: anything that Arrow or fsspec can reach.

`<cluster.storage_path>/<name>/` holds what the run's folder holds, and `owner.json`: which start
writes there. A checkpoint's manifest comes after its files, so a copy that was cut off does not
count. The run's folder stays the place where a run works; the copy is read where that is missing
or behind, on another machine.
"""

import io
import json
import shutil
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa
from fsspec.core import url_to_fs
from pyarrow import fs

from skiprec.checkpoints.files import MANIFEST, newest_step
from skiprec.config.cluster import ClusterConfig

OWNER = "owner.json"
CHECKPOINTS = "checkpoints"
CHUNK_BYTES = 2**20
POLL_S = 1.0
NOT_COPIED = ("lease.json", "STOP", "ray")


class TakenOverError(ValueError):
    """Another start of the run writes to the storage now."""


@dataclass(frozen=True)
class Storage:
    """The folder of one run on a filesystem."""

    files: Any
    path: str

    def read(self, name: str) -> bytes:
        """One file, whole."""
        with self.files.open_input_stream(f"{self.path}/{name}") as stream:
            data: bytes = stream.read()
            return data

    def write(self, name: str, source: BinaryIO) -> None:
        """One file, with the folders above it."""
        path = f"{self.path}/{name}"
        self.files.create_dir(path.rpartition("/")[0], recursive=True)
        with self.files.open_output_stream(path) as stream:
            shutil.copyfileobj(source, stream, CHUNK_BYTES)

    def fetch(self, name: str, target: Path) -> None:
        """One file; `target` is the old one or the whole new one."""
        target.parent.mkdir(parents=True, exist_ok=True)
        draft = target.with_name(f".{target.name}.draft")
        with self.files.open_input_stream(f"{self.path}/{name}") as stream:
            with draft.open("wb") as file:
                shutil.copyfileobj(stream, file, CHUNK_BYTES)
        draft.replace(target)

    def listing(self) -> dict[str, Any]:
        """All files, by their path within the run's folder."""
        found = self.files.get_file_info(
            fs.FileSelector(self.path, allow_not_found=True, recursive=True)
        )
        start = len(self.path) + 1
        there = {info.path[start:]: info for info in found if info.type == fs.FileType.File}
        climbing = [name for name in there if ".." in name.split("/") or name.startswith("/")]
        if climbing:
            raise ValueError(f"{self.path} holds {climbing[0]!r}, which is no file of a run")
        return there


def open_storage(cluster: ClusterConfig, name: str) -> Storage | None:
    """The run's place there; None without `cluster.storage_path`.

    Raises:
        ValueError: it cannot be reached.
    """
    uri = cluster.storage_path
    if uri is None:
        return None
    if "://" not in uri:
        uri = Path(uri).absolute().as_uri()
    try:
        try:
            files, path = fs.FileSystem.from_uri(uri)
        except pa.ArrowInvalid:  # a scheme that Arrow does not know
            other, path = url_to_fs(uri)
            files = fs.PyFileSystem(fs.FSSpecHandler(other))
        files.create_dir(f"{path}/{name}", recursive=True)
    except (OSError, ValueError, ImportError) as error:
        raise ValueError(
            f"cluster.storage_path={cluster.storage_path!r} cannot be written to: {error}; "
            "expected a folder, or a URI such as s3://bucket/folder (credentials as for Arrow: "
            "AWS_ACCESS_KEY_ID, …)"
        ) from error
    return Storage(files, f"{path}/{name}")


def take_over(storage: Storage, token: str) -> None:
    """From here on `upload` refuses every start but the one of this token."""
    storage.write(OWNER, io.BytesIO(json.dumps({"token": token}).encode()))


def upload(storage: Storage, folder: Path, token: str | None) -> None:
    """Makes the copy like `folder`: what is new or changed, less the checkpoints that are gone.

    Args:
        token: of the start that writes; None for one that only adds, as an evaluation does.

    Raises:
        TakenOverError: a later start took the run over.
        OSError: the storage did not take it.
    """
    if token is not None and json.loads(storage.read(OWNER))["token"] != token:
        raise TakenOverError(
            f"another start of this run writes to {storage.path} now; this one ends"
        )
    there = storage.listing()
    here = {str(path.relative_to(folder)): path for path in _own_files(folder)}
    sealed = {step for step in _steps(here) if f"{step}/{MANIFEST}" in here}
    to_copy = {step for step in sealed if not _is_there(storage, there, folder, step)}
    for name in sorted(here, key=_manifests_last):
        step = _step_of(name)
        if (step in to_copy) if step is not None else _is_new(here[name], there.get(name)):
            with here[name].open("rb") as file:
                storage.write(name, file)
    if token is not None:
        for step in _steps(there) - _steps(here):
            storage.files.delete_dir(f"{storage.path}/{step}")


def restore(storage: Storage, folder: Path) -> int | None:
    """Brings the copy into `folder` if that is missing or behind; returns the step it brought."""
    there = storage.listing()
    whole = {step for step in _steps(there) if f"{step}/{MANIFEST}" in there}
    newest = max((int(step.rpartition("-")[2]) for step in whole), default=0)
    is_missing = not (folder / "config.json").exists()
    if "config.json" not in there or not (is_missing or newest > newest_step(folder / CHECKPOINTS)):
        return None
    for name in sorted(there, key=_manifests_last):
        step = _step_of(name)
        if name == OWNER or (step is not None and step not in whole):
            continue
        storage.fetch(name, folder / name)
    return newest


class Uploads:
    """Uploads beside the training, one at a time.

    Args:
        tell: is given a message when one failed; the next one makes up for it.
    """

    def __init__(self, storage: Storage, folder: Path, token: str, tell: Callable[[str], None]):
        self.storage, self.folder, self.token, self.tell = storage, folder, token, tell
        self.pool = ThreadPoolExecutor(1)
        self.running: Future[None] | None = None

    def start(self) -> None:
        """Uploads what the folder holds now; while `is_busy`, no checkpoint may go from it."""
        assert self.running is None, "one at a time"
        self.running = self.pool.submit(upload, self.storage, self.folder, self.token)

    def is_busy(self) -> bool:
        """Whether the last one is still running, after waiting for it a while.

        Raises:
            TakenOverError: see `upload`.
        """
        if self.running is None:
            return False
        if not wait([self.running], timeout=POLL_S).done:
            return True
        ended, self.running = self.running, None
        try:
            ended.result()
        except OSError as error:
            self.tell(f"the copy to {self.storage.path} failed, the next will do: {error}")
        return False


def _is_there(storage: Storage, there: dict[str, Any], folder: Path, step: str) -> bool:
    """Whether the copy of a checkpoint is whole; breaks the seal of another one of that name."""
    manifest = f"{step}/{MANIFEST}"
    if manifest not in there:
        return False
    if storage.read(manifest) == (folder / manifest).read_bytes():
        return True
    storage.files.delete_file(f"{storage.path}/{manifest}")
    return False


def _is_new(file: Path, copy: Any | None) -> bool:
    status = file.stat()
    seconds = 10**9  # S3 keeps times in whole seconds
    return (
        copy is None
        or copy.size != status.st_size
        or (copy.mtime_ns or 0) // seconds < status.st_mtime_ns // seconds
    )


def _own_files(folder: Path) -> list[Path]:
    """What is finished and belongs to the run, not to one start of it."""
    return [
        path
        for path in folder.rglob("*")
        if path.is_file()
        and path.relative_to(folder).parts[0] not in NOT_COPIED
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    ]


def _manifests_last(name: str) -> tuple[bool, str]:
    return name.endswith(f"/{MANIFEST}"), name


def _steps(names: dict[str, Any]) -> set[str]:
    """The checkpoints that files belong to: `checkpoints/step-…`."""
    return {step for step in map(_step_of, names) if step is not None}


def _step_of(name: str) -> str | None:
    parts = name.split("/")
    return "/".join(parts[:2]) if parts[0] == CHECKPOINTS and len(parts) > 2 else None
