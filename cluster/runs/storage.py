"""Copies a run to storage that outlives the cluster: any that Arrow or fsspec can reach.

`<cluster.storage_path>/<name>/` holds the files of the run's folder, and `owner.json` with the
token of the start that writes there. A checkpoint's manifest is copied after its other files, so an
interrupted copy does not count. Training works in the run's folder; the copy is read only where
that folder is missing or behind, as on another machine.
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
    """Another start of the run now owns the storage."""


@dataclass(frozen=True)
class Storage:
    """The folder of one run on the storage.

    Args:
        files: a filesystem of Arrow.
        path: the folder on that filesystem.
    """

    files: Any
    path: str

    def read(self, name: str) -> bytes:
        """The content of one file."""
        with self.files.open_input_stream(f"{self.path}/{name}") as stream:
            data: bytes = stream.read()
            return data

    def write(self, name: str, source: BinaryIO) -> None:
        """Writes one file and creates the folders above it."""
        path = f"{self.path}/{name}"
        self.files.create_dir(path.rpartition("/")[0], recursive=True)
        with self.files.open_output_stream(path) as stream:
            shutil.copyfileobj(source, stream, CHUNK_BYTES)

    def fetch(self, name: str, target: Path) -> None:
        """Copies one file to `target`, which is at any time the whole old or the whole new file."""
        target.parent.mkdir(parents=True, exist_ok=True)
        draft = target.with_name(f".{target.name}.draft")
        with self.files.open_input_stream(f"{self.path}/{name}") as stream:
            with draft.open("wb") as file:
                shutil.copyfileobj(stream, file, CHUNK_BYTES)
        draft.replace(target)

    def listing(self) -> dict[str, Any]:
        """Arrow's information on every file, by the file's path within the run's folder.

        Raises:
            ValueError: a path leads out of the run's folder.
        """
        entries = self.files.get_file_info(
            fs.FileSelector(self.path, allow_not_found=True, recursive=True)
        )
        start = len(self.path) + 1
        remote = {info.path[start:]: info for info in entries if info.type == fs.FileType.File}
        climbing = [name for name in remote if ".." in name.split("/") or name.startswith("/")]
        if climbing:
            raise ValueError(f"{self.path} holds {climbing[0]!r}, which is no file of a run")
        return remote


def open_storage(cluster: ClusterConfig, name: str) -> Storage | None:
    """The storage of the run `name`; None without `cluster.storage_path`.

    Raises:
        ValueError: the storage cannot be reached or written to.
    """
    uri = cluster.storage_path
    if uri is None:
        return None
    if "://" not in uri:
        uri = Path(uri).absolute().as_uri()
    try:
        try:
            files, path = fs.FileSystem.from_uri(uri)
        except pa.ArrowInvalid:  # Arrow does not know the scheme of this URI.
            fsspec_files, path = url_to_fs(uri)
            files = fs.PyFileSystem(fs.FSSpecHandler(fsspec_files))
        files.create_dir(f"{path}/{name}", recursive=True)
    except (OSError, ValueError, ImportError) as error:
        raise ValueError(
            f"cluster.storage_path={cluster.storage_path!r} cannot be written to: {error}; "
            "expected a folder, or a URI such as s3://bucket/folder (with credentials in the "
            "variables that Arrow reads: AWS_ACCESS_KEY_ID, …)"
        ) from error
    return Storage(files, f"{path}/{name}")


def take_over(storage: Storage, token: str) -> None:
    """Makes the start with this token the owner; `upload` then refuses every other start."""
    storage.write(OWNER, io.BytesIO(json.dumps({"token": token}).encode()))


def upload(storage: Storage, folder: Path, token: str | None) -> None:
    """Copies new and changed files to the storage and deletes checkpoints that `folder` lost.

    Args:
        token: the token of the start that writes. None: only add files, as an evaluation does.

    Raises:
        TakenOverError: a later start owns the storage.
        OSError: the storage refused a file.
    """
    if token is not None and json.loads(storage.read(OWNER))["token"] != token:
        raise TakenOverError(
            f"another start of this run now writes to {storage.path}; this start ends"
        )
    remote = storage.listing()
    local = {str(path.relative_to(folder)): path for path in _own_files(folder)}
    sealed = {step for step in _steps(local) if f"{step}/{MANIFEST}" in local}
    to_copy = {step for step in sealed if not _is_copied(storage, remote, folder, step)}
    for name in sorted(local, key=_manifests_last):
        step = _step_of(name)
        if (step in to_copy) if step is not None else _is_new(local[name], remote.get(name)):
            with local[name].open("rb") as file:
                storage.write(name, file)
    if token is not None:
        for step in _steps(remote) - _steps(local):
            storage.files.delete_dir(f"{storage.path}/{step}")


def restore(storage: Storage, folder: Path) -> int | None:
    """Copies the run from the storage into `folder`, if that is missing or behind.

    Returns the step of the newest restored checkpoint (0: none), or None if nothing was restored.
    """
    remote = storage.listing()
    whole = {step for step in _steps(remote) if f"{step}/{MANIFEST}" in remote}
    newest = max((int(step.rpartition("-")[2]) for step in whole), default=0)
    is_missing = not (folder / "config.json").exists()
    is_behind = newest > newest_step(folder / CHECKPOINTS)
    if "config.json" not in remote or not (is_missing or is_behind):
        return None
    for name in sorted(remote, key=_manifests_last):
        step = _step_of(name)
        if name == OWNER or (step is not None and step not in whole):
            continue
        storage.fetch(name, folder / name)
    return newest


class Uploads:
    """Uploads a run's folder in a background thread, one upload at a time.

    A failed upload is logged; the next upload also copies the files that it missed.

    Args:
        log: takes the message of a failed upload.
    """

    def __init__(self, storage: Storage, folder: Path, token: str, log: Callable[[str], None]):
        self.storage, self.folder, self.token, self.log = storage, folder, token, log
        self.pool = ThreadPoolExecutor(1)
        self.running: Future[None] | None = None

    def start(self) -> None:
        """Starts an upload of the folder; while `is_busy`, no checkpoint may be removed from it."""
        assert self.running is None, "one at a time"
        self.running = self.pool.submit(upload, self.storage, self.folder, self.token)

    def is_busy(self) -> bool:
        """Whether the last upload is still running, after waiting for it up to `POLL_S`.

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
            self.log(
                f"the upload to {self.storage.path} failed and is retried after the next "
                f"checkpoint: {error}"
            )
        return False


def _is_copied(storage: Storage, remote: dict[str, Any], folder: Path, step: str) -> bool:
    """Whether the storage has a complete copy of a checkpoint.

    The manifest of a different checkpoint of the same name is deleted, so that it no longer counts.
    """
    manifest = f"{step}/{MANIFEST}"
    if manifest not in remote:
        return False
    if storage.read(manifest) == (folder / manifest).read_bytes():
        return True
    storage.files.delete_file(f"{storage.path}/{manifest}")
    return False


def _is_new(file: Path, copy: Any | None) -> bool:
    """Whether a file has no copy, or one of another size or an earlier second."""
    status = file.stat()
    seconds = 10**9  # S3 stores times in whole seconds.
    return (
        copy is None
        or copy.size != status.st_size
        or (copy.mtime_ns or 0) // seconds < status.st_mtime_ns // seconds
    )


def _own_files(folder: Path) -> list[Path]:
    """The finished files of the run, without those that belong to one start only."""
    return [
        path
        for path in folder.rglob("*")
        if path.is_file()
        and path.relative_to(folder).parts[0] not in NOT_COPIED
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    ]


def _manifests_last(name: str) -> tuple[bool, str]:
    """A sorting key."""
    return name.endswith(f"/{MANIFEST}"), name


def _steps(names: dict[str, Any]) -> set[str]:
    """The folders of the checkpoints that these files belong to: `checkpoints/step-…`."""
    return {step for step in map(_step_of, names) if step is not None}


def _step_of(name: str) -> str | None:
    """The folder of the checkpoint that a file belongs to, if it belongs to one."""
    parts = name.split("/")
    return "/".join(parts[:2]) if parts[0] == CHECKPOINTS and len(parts) > 2 else None
