"""Results of an evaluation appear in a run's folder as a whole, or not at all."""

import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from skiprec.durable import write_text_durably


def publish(folder: Path, final: str, text: str, write: Callable[[Path], None]) -> Path:
    """Writes beside, renames in; a folder with the file `final` has all the rest of it, too.

    Args:
        text: of `final`, which is written last.
        write: puts all other files into the folder that it is given.
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
