"""The event files of a run: what each rank, and Ray Train's controller, has to tell a person."""

import json
import os
import time
from pathlib import Path
from typing import Any

from skiprec.config.run import RunConfig


def rank_events(folder: Path, rank: int) -> Path:
    """The event file of a rank: one JSON object a line."""
    return folder / f"events-rank{rank}.jsonl"


def controller_events(folder: Path) -> Path:
    """The event file of Ray Train's controller."""
    return folder / "events-controller.jsonl"


def log_event(config: RunConfig, rank: int, message: str, **more: Any) -> None:
    """Adds a line to the event file of a rank."""
    event = {"time": time.time(), "pid": os.getpid(), "message": message, **more}
    with rank_events(config.folder, rank).open("a") as file:
        file.write(json.dumps(event) + "\n")
