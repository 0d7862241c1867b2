"""A folder appears complete or not at all."""

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
    """A temporary folder beside `output` that is renamed to it when the block ends well.

    When the block raises, the temporary folder goes and `output` was never there. What a killed
    process left is cleared; a folder that a living process is filling is an error.
    """
    refuse_existing(output)
    temporary = output.parent / f".{output.name}.partial"
    temporary.mkdir(parents=True, exist_ok=True)
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
        os.close(descriptor)  # and with it the lock


def refuse_existing(output: Path) -> None:
    """ValueError if something is already there."""
    if output.exists():
        raise ValueError(
            f"{output} already exists; expected a new folder: remove it or choose another --output"
        )


def is_built(output: Path, recipe: Recipe) -> bool:
    """Whether `output` is a complete dataset of this very recipe; False if nothing is there.

    ValueError if something else is there. Input files are not compared.
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
    """Hold the folder until the descriptor is closed; the kernel lets go when a process dies."""
    busy = ValueError(f"another process is building {output}; expected to be the only one: wait")
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise busy from error
    # The other process may have renamed this very folder to `output` before it let go.
    if not temporary.exists() or not os.path.samestat(os.fstat(descriptor), temporary.stat()):
        raise busy
