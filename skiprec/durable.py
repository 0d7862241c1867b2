"""Files on disk: written so that a crash leaves the old file or the new one, and their checksums.

Nothing here creates or removes a folder.
"""

import hashlib
import os
from pathlib import Path


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
