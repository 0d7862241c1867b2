"""Publishes the files of an evaluation in a run's folder: all of them, or none."""

import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from skiprec.durable import write_text_durably


def publish(folder: Path, final: str, text: str, write: Callable[[Path], None]) -> Path:
    """Writes files into a draft folder, moves them into `folder`, and returns the path of `final`.

    The file `final` is written last, so a folder that has it has all the other files, too.

    Args:
        text: the content of `final`.
        write: a function that writes all other files into the folder that it receives.
    """
    draft = Path(tempfile.mkdtemp(prefix=".report-", dir=folder))
    try:
        write(draft)
        (folder / final).unlink(missing_ok=True)
        for path in sorted(draft.iterdir()):
            path.replace(folder / path.name)
        write_text_durably(folder / final, text)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return folder / final
