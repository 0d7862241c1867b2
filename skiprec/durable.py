"""Writing files so that a crash leaves the old file or the new one."""

import os
from pathlib import Path


def write_text_durably(path: Path, text: str) -> None:
    """Writes beside, flushes to the disk, and renames over: readers see the old or the new."""
    draft = path.with_name(f".{path.name}.{os.getpid()}.draft")
    with draft.open("w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)
