"""The queue before the executor: what arrives while it is busy goes together in its next call.

There is no timer: a request that finds the executor idle starts at once, and under load batches
grow by themselves. Neither the batch nor the order of arrival changes the items of an answer.
"""

import contextlib
import threading
import time
from collections import deque
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field

from skiprec.inference.recommender import Id, Recommendation
from skiprec.service.serving_model import LoadedModel


class QueueFullError(Exception):
    """The queue has no room for a request."""


class StoppingError(Exception):
    """The dispatcher takes no further requests."""


class TooLateError(Exception):
    """A request has waited longer than its deadline."""


@dataclass(frozen=True)
class Options:
    """What is asked for all histories of a request; equal options may share a call."""

    k: int
    exclude_seen: bool
    allow: tuple[Id, ...] | None
    deny: tuple[Id, ...] | None
    keep: float | None

    @property
    def group(self) -> Hashable:
        """Requests of one group share a call: the best 5 are the first 5 of the best 10."""
        return self.exclude_seen, self.allow, self.deny, self.keep


@dataclass(eq=False)
class Work:
    """One request.

    Args:
        on_done: called in the dispatcher's thread, with the result or with an exception.
        due_s: when it is too late, by `time.monotonic`.
    """

    histories: list[list[Id]]
    options: Options
    on_done: Callable[["Done | Exception"], object]
    due_s: float
    arrived_s: float = field(default_factory=time.monotonic)
    is_wanted: bool = True


@dataclass(frozen=True)
class Done:
    """The answer to a request: its rows, who answered, and when."""

    rows: list[Recommendation]
    model: LoadedModel
    keep: float | None
    started_s: float
    finished_s: float


# (histories, options) -> rows, the model, the share of blocks that was used
Answer = Callable[[list[list[Id]], Options], tuple[list[Recommendation], LoadedModel, float | None]]
# (histories that wait, seconds that the first has waited) -> histories of the next calls together
Plan = Callable[[int, float], int]


class Dispatcher:
    """A thread that answers what waits in the queue.

    Args:
        answer: answers a group of histories; called in the dispatcher's thread alone.
        plan: asked in the same thread, before requests are taken from the queue, how many histories
            to take, unless one request has more.
        max_waiting: histories that may wait.
    """

    def __init__(self, answer: Answer, plan: Plan, max_waiting: int):
        self._answer, self._plan = answer, plan
        self._max_waiting = max_waiting
        self._waiting: deque[Work] = deque()
        self._rows_waiting = 0
        self._changed = threading.Condition()
        self._is_open = True
        self._thread = threading.Thread(target=self._run, name="dispatcher", daemon=True)
        self._thread.start()

    @property
    def rows_waiting(self) -> int:
        """How many histories wait."""
        return self._rows_waiting

    def oldest_wait_s(self) -> float:
        """How long the first request in the queue has waited, in seconds."""
        with self._changed:
            return self._oldest_wait_s()

    def _oldest_wait_s(self) -> float:
        return time.monotonic() - self._waiting[0].arrived_s if self._waiting else 0.0

    def submit(self, work: Work) -> None:
        """Puts a request at the end of the queue.

        Raises:
            QueueFullError: there is no room for it.
            StoppingError: the dispatcher is closed.
        """
        with self._changed:
            if not self._is_open:
                raise StoppingError("the service is stopping")
            if self._rows_waiting + len(work.histories) > self._max_waiting:
                raise QueueFullError(
                    f"{self._rows_waiting} histories wait and the queue holds {self._max_waiting}"
                )
            self._waiting.append(work)
            self._rows_waiting += len(work.histories)
            self._changed.notify()

    def close(self) -> None:
        """Answers what waits and ends the thread."""
        with self._changed:
            self._is_open = False
            self._changed.notify()
        self._thread.join()

    def _run(self) -> None:
        while True:
            with self._changed:
                while not self._waiting and self._is_open:
                    self._changed.wait()
                if not self._waiting:
                    return
                batch = self._next_batch(self._plan(self._rows_waiting, self._oldest_wait_s()))
            for works in _groups(batch):
                self._call([work for work in works if _is_due(work)])

    def _next_batch(self, most_rows: int) -> list[Work]:
        """The requests at the head of the queue that are still wanted, up to `most_rows` rows."""
        batch: list[Work] = []
        num_rows = 0
        while self._waiting:
            size = len(self._waiting[0].histories)
            if batch and num_rows + size > most_rows:
                break
            work = self._waiting.popleft()
            self._rows_waiting -= size
            if _is_due(work):
                batch.append(work)
                num_rows += size
        return batch

    def _call(self, works: list[Work]) -> None:
        if not works:
            return
        histories = [history for work in works for history in work.histories]
        first = works[0].options
        k = max(work.options.k for work in works)
        asked = Options(k, first.exclude_seen, first.allow, first.deny, first.keep)
        started_s = time.monotonic()
        try:
            rows, model, keep = self._answer(histories, asked)
        except Exception as error:  # whatever it is, the request that waits must hear of it
            for work in works:
                _finish(work, error)
            return
        finished_s = time.monotonic()
        start = 0
        for work in works:
            own = rows[start : start + len(work.histories)]
            start += len(work.histories)
            _finish(work, Done(own, model, keep, started_s, finished_s))


def _is_due(work: Work) -> bool:
    """Whether a request is still to be answered; one that is too late is told so."""
    if work.is_wanted and time.monotonic() > work.due_s:
        _finish(work, TooLateError())
        return False
    return work.is_wanted


def _finish(work: Work, outcome: Done | Exception) -> None:
    with contextlib.suppress(RuntimeError):  # whoever asked has closed its event loop
        work.on_done(outcome)


def _groups(batch: list[Work]) -> list[list[Work]]:
    """The requests that may share a call, in the order in which the first of each arrived."""
    groups: dict[Hashable, list[Work]] = {}
    for work in batch:
        groups.setdefault(work.options.group, []).append(work)
    return list(groups.values())
