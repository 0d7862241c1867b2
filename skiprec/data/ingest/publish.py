"""Publishes a folder: under its name it is complete or not there."""

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from skiprec.data.ingest.recipe import Recipe
from skiprec.data.manifest import read_manifest
from skiprec.durable import flush_to_disk


@contextmanager
def publishing(output: Path) -> Iterator[Path]:
    """A temporary folder beside `output`, which is renamed to `output` at the end of the block.

    If the block raises, the temporary folder is removed and `output` never appears. The files
    that a killed process left in the temporary folder are removed first.

    Raises:
        ValueError: `output` exists, or another process is filling the temporary folder.
    """
    refuse_existing(output)
    temporary = output.parent / f".{output.name}.partial"
    try:
        temporary.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(
            f"{output} cannot be created ({error.strerror}: {error.filename}); expected a folder "
            "where you may write"
        ) from error
    descriptor = os.open(temporary, os.O_RDONLY)
    try:
        _lock(descriptor, temporary, output)
        try:
            for leftover in temporary.iterdir():
                shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()
            yield temporary
            os.fsync(descriptor)
            refuse_existing(output)
            temporary.rename(output)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise
        flush_to_disk(output.parent)
    finally:
        os.close(descriptor)  # releases the lock


def refuse_existing(output: Path) -> None:
    """Raises ValueError if `output` exists."""
    if output.exists():
        raise ValueError(
            f"{output} already exists; expected a new folder: remove it or choose another --output"
        )


def is_built(output: Path, recipe: Recipe) -> bool:
    """Whether `output` is a complete dataset of this recipe; False if `output` does not exist.

    Input files are not compared.

    Raises:
        ValueError: `output` is a dataset of another recipe, or not a dataset.
    """
    if not output.exists():
        return False
    manifest = read_manifest(output)
    if manifest.recipe_hash != recipe.hash:
        raise ValueError(
            f"{output} holds {manifest.name!r} of recipe {manifest.recipe_hash[:12]}, expected "
            f"{recipe.name!r} of recipe {recipe.hash[:12]}; remove it or choose another folder"
        )
    return True


def _lock(descriptor: int, temporary: Path, output: Path) -> None:
    """Locks the folder until the descriptor is closed or the process dies."""
    busy = ValueError(
        f"another process is building {output}; wait for it, or choose another folder"
    )
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise busy from error
    # The other process may have renamed this folder to `output` before it released the lock.
    if not temporary.exists() or not os.path.samestat(os.fstat(descriptor), temporary.stat()):
        raise busy
