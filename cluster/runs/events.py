"""The event files of a run: messages for people, from each rank and from Ray Train's controller."""

import json
import os
import time
from pathlib import Path
from typing import Any

from skiprec.config.run import RunConfig


def rank_events(folder: Path, rank: int) -> Path:
    """The path of a rank's event file, which has one JSON object per line."""
    return folder / f"events-rank{rank}.jsonl"


def controller_events(folder: Path) -> Path:
    """The path of the event file of Ray Train's controller."""
    return folder / "events-controller.jsonl"


def log_event(config: RunConfig, rank: int, message: str, **more: Any) -> None:
    """Appends an event to the event file of a rank; `more` are further keys of the event."""
    event = {"time": time.time(), "pid": os.getpid(), "message": message, **more}
    with rank_events(config.folder, rank).open("a") as file:
        file.write(json.dumps(event) + "\n")
