"""Shows a run's progress where the job was started, by reading what rank 0 writes.

Ray can forward what workers print, but mixes it with its own; the run's files say it plainly.
"""

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cluster.runs.events import controller_events, rank_events
from skiprec.observability.sinks import ConsoleSink

POLL_S = 0.5
SILENT_S = 30.0


class Follower:
    """The new complete lines of a JSON-lines file, from its present end on."""

    def __init__(self, path: Path):
        self.path = path
        self.inode, self.offset = self._end()

    def new_lines(self) -> list[dict[str, Any]]:
        """What was appended since the last call; a file that was replaced is read from its end."""
        if not self.path.exists():
            return []
        inode, end = self._end()
        if self.inode not in (inode, 0):
            self.offset = end
        self.inode = inode
        with self.path.open("rb") as file:
            file.seek(self.offset)
            data = file.read()
        complete = data[: data.rfind(b"\n") + 1]
        self.offset += len(complete)
        return [json.loads(line) for line in complete.splitlines()]

    def _end(self) -> tuple[int, int]:
        """The file's inode and size; zeros when there is none."""
        if not self.path.exists():
            return 0, 0
        status = self.path.stat()
        return status.st_ino, status.st_size


@contextmanager
def shown_progress(folder: Path, name: str) -> Iterator[None]:
    """Prints events and metrics of the run in `folder` while the block runs."""
    metrics = Follower(folder / "metrics.jsonl")
    events = [Follower(rank_events(folder, 0)), Follower(controller_events(folder))]
    console, stop, worker_told = ConsoleSink(name), threading.Event(), threading.Event()

    def show() -> None:
        for event in (event for file in events for event in file.new_lines()):
            worker_told.set()
            if "message" in event:
                print(f"[{name}] {event['message']}", flush=True)
        for line in metrics.new_lines():
            console.scalars(line.pop("step"), line)

    def follow() -> None:
        silent_until = time.monotonic() + SILENT_S
        while not stop.wait(POLL_S):
            show()
            if time.monotonic() > silent_until and not worker_told.is_set():
                print(
                    f"[{name}] no worker has started yet; `ray status` says who holds what",
                    flush=True,
                )
                worker_told.set()

    thread = threading.Thread(target=follow, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
        show()
