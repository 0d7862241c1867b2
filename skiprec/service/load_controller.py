"""Measures the service, and turns the share of blocks to what `control.decide` says."""

import math
import statistics
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence

import numpy as np

from skiprec.inference.recommender import Recommender
from skiprec.inference.saved_model import CurvePoint
from skiprec.service.control import (
    FULL_ROWS,
    PERIOD_S,
    Measured,
    Point,
    Promise,
    Standing,
    decide,
    point_of_call,
    rows_of_call,
)

CALIBRATION_ROWS, CALIBRATION_ROUNDS = 32, 3


def measure_points(recommender: Recommender, histories: list[list[str]]) -> list[Point]:
    """The points of the policy's curve, with the executor's time on this machine.

    Some histories are timed at all points. Between these times lies the time of a point: the curve
    says how many blocks run there on average over all validation rows.

    Raises:
        ValueError: the model has no curve, so its depth cannot follow the load.
    """
    curve = recommender.spec.curve
    if not curve:
        raise ValueError(
            "depth can only follow the load if the model has a learned policy or exits; this one "
            f"has neither (policy {recommender.spec.policy!r})"
        )
    real = [history for history in histories if history] or [[]]
    rows = [real[index % len(real)] for index in range(CALIBRATION_ROWS)]

    def measured(keep: float) -> tuple[float, float]:
        start_s = time.perf_counter()
        answers = recommender.recommend(rows, keep=keep, explain=True)
        row_s = (time.perf_counter() - start_s) / len(rows)
        kept = sum(len(answer.kept_blocks or ()) for answer in answers) / len(rows)
        return kept / recommender.spec.shape["blocks"], row_s

    # Rounds over all points, so that a disturbance hits all of them.
    rounds = [[measured(point.keep) for point in curve] for _ in range(CALIBRATION_ROUNDS)]
    keeps = [keep for keep, _ in rounds[0]]
    medians = [statistics.median(row_s for _, row_s in each) for each in zip(*rounds, strict=True)]
    return [
        Point(point.keep, point.mrr_at_20, row_s)
        for point, row_s in zip(curve, times_at(keeps, medians, curve), strict=True)
    ]


def times_at(keeps: list[float], seconds: list[float], curve: Sequence[CurvePoint]) -> list[float]:
    """The time of a history at each point of a curve, between the measured times.

    A larger share never takes less time; a disturbance may say otherwise.
    """
    shares = sorted(set(keeps))
    means = [
        statistics.fmean(one for keep, one in zip(keeps, seconds, strict=True) if keep == share)
        for share in shares
    ]
    rising = np.maximum.accumulate(means)
    if len(shares) > 1:  # beyond the last share, as between the last two
        slope = (rising[-1] - rising[0]) / (shares[-1] - shares[0])
        shares.append(1 + shares[-1])
        rising = np.append(rising, rising[-1] + slope)
    return [float(np.interp(point.keep, shares, rising)) for point in curve]


class LoadController:
    """A thread that decides anew every tenth of a second.

    Args:
        on_change: told of the point in use, at the start and whenever it changes.
    """

    def __init__(
        self,
        promise: Promise,
        oldest_wait_s: Callable[[], float],
        on_change: Callable[[Point], None] = lambda point: None,
    ):
        self.promise, self._oldest_wait_s, self._on_change = promise, oldest_wait_s, on_change
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._points: tuple[Point, ...] = ()
        self._standing = Standing(0)
        self._rows = 0
        self._busy_s = self._full_s = self._expected_s = 0.0
        self._enough = math.ceil(1 / (1 - promise.quantile))
        self._latencies_ms: deque[float] = deque(maxlen=4 * self._enough)
        self._thread = threading.Thread(target=self._run, name="load-controller", daemon=True)

    def start(self) -> None:
        """Starts the thread; `use_points` must have been called."""
        self._thread.start()

    def stop(self) -> None:
        """Ends the thread."""
        self._stop.set()
        self._thread.join()

    def use_points(self, points: tuple[Point, ...]) -> None:
        """Begins with the last of these points, from `usable_points`, of a model that is new."""
        with self._lock:
            self._points, self._standing = points, Standing(len(points) - 1)
            # What was counted so far tells of the model before.
            self._begin_period()
            self._latencies_ms.clear()
        self._on_change(self.point)

    @property
    def point(self) -> Point:
        """The point in use."""
        with self._lock:
            return self._points[self._standing.point]

    def count_arrival(self, rows: int) -> None:
        """Histories have arrived, whether they are answered or not."""
        with self._lock:
            self._rows += rows

    def plan_call(self, rows_waiting: int, oldest_wait_s: float) -> tuple[Point, int]:
        """The point of the next call, and the most histories that it may have."""
        with self._lock:
            points, promise, standing = self._points, self.promise, self._standing
        wait_ms = 1000 * oldest_wait_s
        point = points[point_of_call(points, promise, standing, rows_waiting, wait_ms)]
        return point, rows_of_call(promise, standing, point)

    def count_call(self, rows: int, seconds: float, point: Point | None) -> None:
        """The executor has answered histories, at a point or at a share that was asked for."""
        with self._lock:
            self._busy_s += seconds
            if point is not None and rows >= FULL_ROWS:
                self._full_s += seconds
                self._expected_s += rows * point.row_s

    def count_answer(self, latency_ms: float) -> None:
        """A request was answered, or refused because it was too late."""
        with self._lock:
            self._latencies_ms.append(latency_ms)

    def decide_once(self, period_s: float) -> None:
        """Decides from what was counted since the last time."""
        oldest_wait_ms = 1000 * self._oldest_wait_s()
        with self._lock:
            before = self._standing
            measured = Measured(
                self._rows / period_s,
                self._busy_s / period_s,
                self._full_s / self._expected_s if self._expected_s else None,
                self._quantile(),
                oldest_wait_ms,
            )
            self._begin_period()
            after = self._standing = decide(self._points, self.promise, before, measured)
            if (before.point, before.allowance) != (after.point, after.allowance):
                self._latencies_ms.clear()  # they tell of what has been changed
            point = self._points[after.point]
        if after.point != before.point:
            self._on_change(point)

    def _begin_period(self) -> None:
        self._rows, self._busy_s, self._full_s, self._expected_s = 0, 0.0, 0.0, 0.0

    def _quantile(self) -> float | None:
        """The promised quantile of the answers since the last change, once it can be told."""
        if len(self._latencies_ms) < self._enough:
            return None
        return float(np.quantile(self._latencies_ms, self.promise.quantile))

    def _run(self) -> None:
        last_s = time.monotonic()
        while not self._stop.wait(PERIOD_S):
            now_s = time.monotonic()
            self.decide_once(now_s - last_s)
            last_s = now_s
