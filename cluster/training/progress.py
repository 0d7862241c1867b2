"""Shows a run's progress where the job was started, by reading the files that rank 0 writes.

Ray can forward what workers print, but mixes it with its own messages. The run's files hold only
the run's own.
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
from skiprec.terminal import moving_line

POLL_S = 0.5
SILENT_S = 30.0


class Follower:
    """Reads the complete lines that are appended to a JSON-lines file from now on."""

    def __init__(self, path: Path):
        self.path = path
        self.inode, self.offset = self._end()

    def new_lines(self) -> list[dict[str, Any]]:
        """The lines since the last call; a file that was replaced is read from its end."""
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
    """Shows the events and metrics of the run in `folder` while the block runs."""
    metrics = Follower(folder / "metrics.jsonl")
    events = [Follower(rank_events(folder, 0)), Follower(controller_events(folder))]
    # The metrics of rank 0 hold the speed and the time left: the line estimates neither.
    with moving_line(name, "starting", estimates=False) as line:
        console, stop, has_started = ConsoleSink(name, line), threading.Event(), threading.Event()

        def show() -> None:
            for event in (event for file in events for event in file.new_lines()):
                has_started.set()
                if "message" in event:
                    line.say(event["message"])
            for values in metrics.new_lines():
                console.scalars(values.pop("step"), values)

        def follow() -> None:
            silent_until = time.monotonic() + SILENT_S
            while not stop.wait(POLL_S):
                show()
                if time.monotonic() > silent_until and not has_started.is_set():
                    line.say("no worker has started yet; `ray status` says who holds what")
                    has_started.set()

        thread = threading.Thread(target=follow, daemon=True)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()
            show()
