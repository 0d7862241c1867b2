"""A run's name is a lease on its folder: one process at a time, the same configuration for ever.

Alive: refused. Dead with the same configuration: resumed. Finished: its result is printed.
Changed configuration: an error that names the keys.
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

from skiprec.config.files import changed_keys, config_hash, deciding_keys
from skiprec.config.run import RunConfig
from skiprec.durable import write_text_durably


class RunAliveError(ValueError):
    """The run's name is held by a process that lives."""


HEARTBEAT_S = 5.0
DEAD_AFTER_S = 60.0
STOP = "STOP"


def open_run(config: RunConfig) -> dict[str, Any] | None:
    """Creates or checks the run's folder; returns the result of a finished run, else None.

    Raises:
        ValueError: the folder holds a run of another configuration.
    """
    folder = config.folder
    folder.mkdir(parents=True, exist_ok=True)
    saved = folder / "config.json"
    if saved.exists():
        changes = changed_configuration(config)
        if changes:
            raise ValueError(
                f"run {config.name!r} in {folder} was started with another configuration:\n  "
                + "\n  ".join(changes)
                + "\nchoose another name (--set name=…), or the old values to resume it"
            )
    else:
        write_text_durably(folder / "run.json", json.dumps(provenance(config), indent=1))
        write_text_durably(saved, config.model_dump_json(indent=1))
    result = folder / "result.json"
    return json.loads(result.read_text()) if result.exists() else None


def changed_configuration(config: RunConfig) -> list[str]:
    """What differs from the configuration with which the run's folder was opened, a line a key."""
    saved = (config.folder / "config.json").read_text()
    old = RunConfig.model_validate(json.loads(saved))
    return changed_keys(deciding_keys(old), deciding_keys(config))


@contextmanager
def lease(config: RunConfig) -> Iterator[str]:
    """Holds the run's name while the block runs, with a heartbeat; yields the holder's token.

    Raises:
        RunAliveError: the name is held by a process that lives.
    """
    path = config.folder / "lease.json"
    config.folder.mkdir(parents=True, exist_ok=True)
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
    """Ends a worker whose driver lost the run: it may outlive its driver by some seconds.

    Raises:
        RuntimeError: the lease is gone, or another start holds it.
    """
    if not _is_held_by(config.folder / "lease.json", token):
        raise RuntimeError(
            f"this worker's driver no longer holds run {config.name!r}; it publishes nothing more"
        )


def request_stop(config: RunConfig) -> None:
    """Asks a running run to save and end, at its next line of the log; a file does it.

    `touch <root>/<name>/STOP` from a shell is the same.
    """
    with suppress(FileNotFoundError):  # it has no folder yet
        (config.folder / STOP).touch()


def stop_is_requested(config: RunConfig) -> bool:
    """Whether `request_stop` was called since this start."""
    return (config.folder / STOP).exists()


def clear_stop(config: RunConfig) -> None:
    """Forgets a request that was for an earlier start."""
    (config.folder / STOP).unlink(missing_ok=True)


def provenance(config: RunConfig) -> dict[str, Any]:
    """What a result must name beside its configuration: hash, commit, versions, machine."""
    names = ("torch", "ray", "deepspeed", "pyarrow", "numpy", "pydantic")
    return {
        "config_hash": config_hash(config),
        "commit": git_commit(),
        "versions": {name: metadata.version(name) for name in names},
        "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }


def git_commit() -> str | None:
    """The checkout's commit; None outside one (an uploaded working directory)."""
    git = Path(__file__).resolve().parent.parent / ".git"
    head = git / "HEAD"
    if not head.is_file():
        return None
    reference = head.read_text().strip()
    if not reference.startswith("ref: "):
        return reference
    target = git / reference.removeprefix("ref: ")
    if target.is_file():
        return target.read_text().strip()
    packed = git / "packed-refs"
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
    """Whether the lease is this start's; one that was thought dead may have lost it to another."""
    try:
        return bool(json.loads(path.read_text())["token"] == token)
    except (FileNotFoundError, json.JSONDecodeError, KeyError):
        return False


def _heartbeat(path: Path, token: str, stop: threading.Event) -> None:
    while not stop.wait(HEARTBEAT_S):
        with suppress(OSError):  # a shared disk that fails for a moment; the next beat may do
            if _is_held_by(path, token):
                os.utime(path)


def _clear_dead_lease(path: Path, name: str) -> None:
    """Moves a dead holder's lease aside; raises if the holder lives."""
    try:
        found, age_s = path.read_text(), time.time() - path.stat().st_mtime
    except FileNotFoundError:
        return
    try:
        holder = json.loads(found)
    except json.JSONDecodeError:  # its writer died between open and write, or is about to write
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
        if aside.read_text() != found:  # another start was quicker: this is its lease
            with suppress(FileExistsError):
                os.link(aside, path)
