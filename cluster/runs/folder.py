"""Run folders: one process at a time holds a run's name, and its configuration never changes.

A second start of a run is refused while the first one is alive, and resumes the run if the first
one is dead. A finished run returns its result. A changed configuration is an error that names the
changed keys.
"""

import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib import metadata
from pathlib import Path
from typing import Any

import psutil

from skiprec.config.files import changed_keys, config_hash, deciding_keys, saved_config
from skiprec.config.run import RunConfig
from skiprec.durable import make_folder, write_text_durably


class RunAliveError(ValueError):
    """The run's name is held by a process that is alive."""


HEARTBEAT_S = 5.0
DEAD_AFTER_S = 60.0
STOP = "STOP"
REPOSITORY = Path(__file__).resolve().parents[2]


def open_run(config: RunConfig) -> dict[str, Any] | None:
    """Creates or checks the run's folder; returns the result of a finished run, else None.

    Raises:
        ValueError: the folder holds a run with another configuration, or cannot be created.
    """
    folder = config.folder
    _make_folder(folder)
    saved = folder / "config.json"
    if saved.exists():
        changes = changed_configuration(config)
        if changes:
            raise ValueError(
                f"run {config.name!r} in {folder} was started with another configuration:\n  "
                + "\n  ".join(changes)
                + "\nchoose another name (--set name=…), or set the old values to resume the run"
            )
    else:
        write_text_durably(folder / "run.json", json.dumps(provenance(config), indent=1))
        write_text_durably(saved, config.model_dump_json(indent=1))
    result = folder / "result.json"
    return json.loads(result.read_text()) if result.exists() else None


def _make_folder(folder: Path) -> None:
    make_folder(folder, "expected a root where you may write: set another one with --set root=…")


def changed_configuration(config: RunConfig) -> list[str]:
    """One line for each key that differs from the configuration in the run's folder."""
    old = saved_config(config.folder / "config.json")
    return changed_keys(deciding_keys(old), deciding_keys(config))


@contextmanager
def lease(config: RunConfig) -> Iterator[str]:
    """Holds the run's name inside the block, with a heartbeat; yields the token of this holder.

    Raises:
        RunAliveError: the name is held by a process that is alive.
    """
    path = config.folder / "lease.json"
    _make_folder(config.folder)
    holder = _holder()
    while True:
        try:
            with path.open("x") as file:
                json.dump(holder, file)
            break
        except FileExistsError:
            _clear_dead_lease(path, config.name)
    stop = threading.Event()
    arguments = (path, str(holder["token"]), stop)
    beat = threading.Thread(target=_heartbeat, args=arguments, daemon=True)
    beat.start()
    try:
        yield str(holder["token"])
    finally:
        stop.set()
        beat.join()
        if _is_held_by(path, str(holder["token"])):
            path.unlink(missing_ok=True)


def refuse_without_lease(config: RunConfig, token: str) -> None:
    """Checks that the start with this token still holds the run.

    A worker may outlive its driver by some seconds; it must not publish anything then.

    Raises:
        RuntimeError: the lease is gone, or another start holds it.
    """
    if not _is_held_by(config.folder / "lease.json", token):
        raise RuntimeError(
            f"this worker's driver no longer holds run {config.name!r}; the worker ends and "
            "publishes nothing more"
        )


def request_stop(config: RunConfig) -> None:
    """Asks a run to save a checkpoint and end, at its next log line.

    It creates the file `<root>/<name>/STOP`, which a user can also do from a shell.
    """
    with suppress(FileNotFoundError):  # The run has no folder yet.
        (config.folder / STOP).touch()


def stop_is_requested(config: RunConfig) -> bool:
    """Whether `request_stop` was called since this start."""
    return (config.folder / STOP).exists()


def clear_stop(config: RunConfig) -> None:
    """Removes a request that was meant for an earlier start."""
    (config.folder / STOP).unlink(missing_ok=True)


def provenance(config: RunConfig) -> dict[str, Any]:
    """The conditions of a result: configuration hash, commit, versions and start time (UTC)."""
    names = ("torch", "ray", "deepspeed", "pyarrow", "numpy", "pydantic")
    return {
        "config_hash": config_hash(config),
        "commit": git_commit(),
        "versions": {name: metadata.version(name) for name in names},
        "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }


def git_commit(repository: Path = REPOSITORY) -> str | None:
    """The checkout's commit; None outside of a checkout, as in an uploaded working directory."""
    git = repository / ".git"
    if git.is_file():  # a worktree: its HEAD is elsewhere, and its branches in the first checkout
        git = repository / git.read_text().removeprefix("gitdir: ").strip()
    head = git / "HEAD"
    if not head.is_file():
        return None
    reference = head.read_text().strip()
    if not reference.startswith("ref: "):
        return reference
    common = git / "commondir"
    branches = git / common.read_text().strip() if common.is_file() else git
    target = branches / reference.removeprefix("ref: ")
    if target.is_file():
        return target.read_text().strip()
    packed = branches / "packed-refs"
    for line in packed.read_text().splitlines() if packed.is_file() else []:
        if line.endswith(reference.removeprefix("ref: ")):
            return line.split()[0]
    return None


def _holder() -> dict[str, Any]:
    process = psutil.Process()
    return {
        "host": socket.gethostname(),
        "pid": process.pid,
        "process_started": process.create_time(),
        "token": uuid.uuid4().hex,
    }


def _is_held_by(path: Path, token: str) -> bool:
    """Whether the start with this token holds the lease.

    A start that seemed dead may have lost its lease to another one.
    """
    try:
        return bool(json.loads(path.read_text())["token"] == token)
    except (FileNotFoundError, json.JSONDecodeError, KeyError):
        return False


def _heartbeat(path: Path, token: str, stop: threading.Event) -> None:
    while not stop.wait(HEARTBEAT_S):
        with suppress(OSError):  # A shared disk may fail for a moment; the next beat tries again.
            if _is_held_by(path, token):
                os.utime(path)


def _clear_dead_lease(path: Path, name: str) -> None:
    """Moves a dead holder's lease aside.

    Raises:
        RunAliveError: the holder is alive.
    """
    try:
        lease_text, age_s = path.read_text(), time.time() - path.stat().st_mtime
    except FileNotFoundError:
        return
    try:
        holder = json.loads(lease_text)
    except json.JSONDecodeError:  # The writer died between open and write, or is about to write.
        holder = {}
    if holder.get("host") == socket.gethostname():
        alive = psutil.pid_exists(holder["pid"]) and (
            abs(psutil.Process(holder["pid"]).create_time() - holder["process_started"]) < 1.0
        )
    else:
        alive = age_s < DEAD_AFTER_S
    if alive:
        raise RunAliveError(
            f"run {name!r} is alive: process {holder.get('pid')} on {holder.get('host')} holds it; "
            "wait for it, stop it, or choose another name (--set name=…)"
        )
    aside = path.with_name(f".lease-{uuid.uuid4().hex}")
    with suppress(FileNotFoundError):
        path.rename(aside)
        if aside.read_text() != lease_text:  # Another start was quicker; put its lease back.
            with suppress(FileExistsError):
                os.link(aside, path)
