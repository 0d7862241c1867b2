"""Files on disk, written so that a crash leaves the old file or the new one; their checksums."""

import hashlib
import os
from pathlib import Path


def make_folder(folder: Path, advice: str = "expected a folder where you may write") -> None:
    """Creates a folder for results, with its parents, unless it is there.

    Raises:
        ValueError: that is impossible; the message ends with `advice`.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        reason = f"{error.strerror}: {error.filename}"
        raise ValueError(f"{folder} cannot be created ({reason}); {advice}") from error


def write_text_durably(path: Path, text: str) -> None:
    """Writes a draft beside `path`, flushes it to the disk and renames it to `path`.

    A reader sees the whole old file or the whole new one, never a part.
    """
    draft = path.with_name(f".{path.name}.{os.getpid()}.draft")
    with draft.open("w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)


def flush_to_disk(path: Path) -> None:
    """Returns once the contents of a file, or the entries of a folder, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def file_sha256(path: Path) -> str:
    """sha256 of the bytes of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
