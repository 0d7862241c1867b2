"""The model, its queue and its numbers: the way of a request from its body to its answer."""

import asyncio
import logging
import threading
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pydantic_core import to_json

from skiprec.inference.recommender import Id, Recommendation
from skiprec.service.control import Point, Promise, usable_points
from skiprec.service.dispatcher import (
    Dispatcher,
    Done,
    Options,
    QueueFullError,
    StoppingError,
    TooLateError,
    Work,
)
from skiprec.service.entrance import RETRY
from skiprec.service.errors import FAILED, RefusedError, refuse_field
from skiprec.service.limits import Limits
from skiprec.service.load_controller import LoadController, measure_points
from skiprec.service.metrics import ServiceMetrics
from skiprec.service.schema import RecommendRequest
from skiprec.service.serving_model import LoadedModel, ServingModel, follow_pointer

log = logging.getLogger(__name__)

WATCH_AFTER_S = 0.02


class Service:
    """The model, its queue and its numbers, between the routes and the executor.

    Args:
        promise: a latency that the service keeps by giving up depth. None: depth stays as trained.
    """

    def __init__(self, model: ServingModel, limits: Limits, promise: Promise | None = None):
        self.model, self.limits = model, limits
        self.metrics = ServiceMetrics(with_depth=promise is not None)
        self._stop = threading.Event()
        self._planned: tuple[LoadedModel, Point | None] = (model.now, None)
        self.dispatcher = Dispatcher(self._answer, self._plan, limits.max_waiting)
        self.controller: LoadController | None = None
        if promise is not None:
            wait_s = self.dispatcher.oldest_wait_s
            self.controller = LoadController(promise, wait_s, self._show_point)
            self.controller.use_points(self._points_of(model.now))
            self.controller.start()
        model.prepare = self._prepare

    def follow(self, pointer: Path) -> None:
        """Swaps the model from now on whenever the pointer file names another one."""
        arguments = (pointer, self.model, self._stop)
        threading.Thread(target=follow_pointer, args=arguments, daemon=True).start()

    def close(self) -> None:
        """Answers what waits, and ends the threads."""
        self._stop.set()
        self.dispatcher.close()
        if self.controller is not None:
            self.controller.stop()

    def _prepare(self, loaded: LoadedModel) -> Callable[[], None]:
        """Before a new model answers."""
        points = () if self.controller is None else self._points_of(loaded)

        def take_over() -> None:
            if self.controller is not None:
                self.controller.use_points(points)
            self.metrics.swaps.inc()

        return take_over

    def _points_of(self, loaded: LoadedModel) -> tuple[Point, ...]:
        assert self.controller is not None
        measured = measure_points(loaded.recommender, loaded.sample)
        points = usable_points(measured, self.controller.promise)
        for point in points:
            log.info(
                "depth may follow the load to %.3f of the blocks: MRR@20 %.4f, %.3f ms a history",
                point.keep,
                point.mrr_at_20,
                1000 * point.row_s,
            )
        if len(points) == 1:
            log.warning(
                "depth cannot follow the load: of the %d points of this model's curve no other one "
                "is more accurate than the fastest and within the promise and --min-mrr",
                len(measured),
            )
        return points

    def _show_point(self, point: Point) -> None:
        self.metrics.keep.set(point.keep)
        self.metrics.expected_mrr.set(point.mrr_at_20)

    async def recommend(
        self,
        asked: RecommendRequest,
        arrived_s: float,
        gone: Callable[[], Awaitable[Any]],
    ) -> bytes:
        """The answer to a request: the JSON of a `RecommendAnswer`.

        Args:
            gone: waits until the client has left.

        Raises:
            RefusedError: the request gets no answer.
        """
        self._check(asked)
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Done | Exception] = loop.create_future()

        def finish(outcome: Done | Exception) -> None:
            if not future.done():
                future.set_result(outcome)

        options = Options(
            asked.k,
            asked.exclude_seen,
            None if asked.allow is None else tuple(asked.allow),
            None if asked.deny is None else tuple(asked.deny),
            asked.keep,
        )
        work = Work(
            asked.histories,
            options,
            lambda outcome: loop.call_soon_threadsafe(finish, outcome),
            arrived_s + self.limits.deadline_ms / 1000,
            arrived_s,
        )
        if self.controller is not None:
            self.controller.count_arrival(len(asked.histories))
        try:
            self.dispatcher.submit(work)
        except StoppingError as error:
            raise RefusedError(503, str(error), headers=RETRY) from None
        except QueueFullError as error:
            raise RefusedError(429, f"too many requests: {error}", headers=RETRY) from None
        with _watching(gone, work, future):
            outcome = await future
        if isinstance(outcome, Exception):
            raise self._refusal(outcome)
        return to_json(self._body(asked, outcome, arrived_s))

    def count(self, status: int, seconds: float) -> None:
        """A request has left with this status."""
        self.metrics.requests.labels(status).inc()
        if status == 200:
            self.metrics.latency.observe(seconds)
        if self.controller is not None and status in (200, 504):
            self.controller.count_answer(1000 * seconds)

    def _check(self, asked: RecommendRequest) -> None:
        limits = self.limits
        if len(asked.histories) > limits.max_histories:
            expected = f"at most {limits.max_histories} histories"
            raise refuse_field("histories", expected, len(asked.histories))
        if asked.k > limits.max_k:
            raise refuse_field("k", f"at most {limits.max_k}", asked.k)
        if asked.k * len(asked.histories) > limits.max_items:
            expected = f"at most {limits.max_items} items in an answer, k times histories"
            raise refuse_field("k", expected, f"{asked.k} times {len(asked.histories)}")
        if asked.keep is not None and asked.keep < 1 and not self.model.now.recommender.spec.curve:
            expected = "no keep, because this model has neither a learned policy nor exits"
            raise refuse_field("keep", expected, asked.keep)

    def _refusal(self, outcome: Exception) -> RefusedError:
        if isinstance(outcome, TooLateError):
            text = f"the request has waited longer than {self.limits.deadline_ms:g} ms"
            return RefusedError(504, text, headers=RETRY)
        if isinstance(outcome, RefusedError):
            return outcome
        if isinstance(outcome, ValueError):
            return RefusedError(422, str(outcome))
        log.error("the executor failed: %s", type(outcome).__name__, exc_info=outcome)
        return RefusedError(500, FAILED)

    def _body(self, asked: RecommendRequest, done: Done, arrived_s: float) -> dict[str, Any]:
        """A `RecommendAnswer`, as a dictionary because that is ten times as fast."""
        ms = {
            "waiting": round(1000 * (done.started_s - arrived_s), 3),
            "executor": round(1000 * (done.finished_s - done.started_s), 3),
            "total": round(1000 * (time.monotonic() - arrived_s), 3),
        }
        parts = done.rows[0].part_ms if asked.explain and done.rows else None
        if parts is not None:
            ms |= {name: round(getattr(parts, name), 3) for name in parts.__slots__}
        results = [self._result(asked, done.model, row) | {"ms": ms} for row in done.rows]
        return {"model": done.model.name, "keep": done.keep, "results": results}

    def _result(
        self, asked: RecommendRequest, loaded: LoadedModel, row: Recommendation
    ) -> dict[str, Any]:
        items = row.items[: asked.k]
        return {
            "items": items,
            "scores": row.scores[: asked.k],
            "names": loaded.catalogue.names_of(items) if asked.names else None,
            "unknown": row.unknown,
            "source": row.source,
            "read": row.read,
            "kept_blocks": row.kept_blocks if asked.explain else None,
        }

    def _plan(self, rows_waiting: int, oldest_wait_s: float) -> int:
        """In the thread of the dispatcher: the model and its point for the next calls."""
        with self.model.switch:
            loaded, point, rows = self.model.now, None, self.limits.batch_rows
            if self.controller is not None:
                point, rows = self.controller.plan_call(rows_waiting, oldest_wait_s)
        self._planned = loaded, point
        return min(rows, self.limits.batch_rows)

    def _answer(
        self, histories: list[list[Id]], options: Options
    ) -> tuple[list[Recommendation], LoadedModel, float | None]:
        """In the thread of the dispatcher: one call of the executor."""
        loaded, planned = self._planned
        point = planned if options.keep is None else None
        keep = options.keep if point is None else point.keep
        start_s = time.monotonic()
        rows = loaded.recommender.recommend(
            histories,
            options.k,
            options.exclude_seen,
            options.allow,
            options.deny,
            keep,
            explain=True,
        )
        seconds = time.monotonic() - start_s
        if self.controller is not None:
            self.controller.count_call(len(rows), seconds, point)
        self.metrics.rows_of_a_call.observe(len(rows))
        self.metrics.executor_seconds.inc(seconds)
        self.metrics.kept_blocks.inc(sum(len(row.kept_blocks or ()) for row in rows))
        self.metrics.unknown.inc(sum(len(row.unknown) for row in rows))
        for source, count in Counter(row.source for row in rows).items():
            self.metrics.rows.labels(source).inc(count)
        return rows, loaded, loaded.recommender.share_of(keep)


@contextmanager
def _watching(
    gone: Callable[[], Awaitable[Any]],
    work: Work,
    future: "asyncio.Future[Done | Exception]",
) -> Iterator[None]:
    """Notices while a request waits that its client has left; then nobody computes it.

    Most answers come before it is worth to look.
    """
    watches: list[asyncio.Task[None]] = []

    async def watch() -> None:
        await gone()
        work.is_wanted = False
        if not future.done():
            future.set_result(RefusedError(499, "the client has left"))

    def begin() -> None:
        watches.append(asyncio.ensure_future(watch()))

    timer = asyncio.get_running_loop().call_later(WATCH_AFTER_S, begin)
    try:
        yield
    finally:
        work.is_wanted = False  # answered, or cancelled by who called
        timer.cancel()
        for one in watches:
            one.cancel()
