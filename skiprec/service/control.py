"""Which share of blocks a service can afford now: pure decisions, several times a second.

Depth is what a service with a policy can give up without giving up a request. `decide` looks ahead:
it knows the executor's time for a history at each point of the policy's curve on this machine
(`Point.row_s`), and takes the most accurate point at which the load fills no more than a share of
the executor's time, the allowance. And it looks back: if the promised latency is broken all the
same, it goes down and the allowance shrinks. A load that fills all of the time is no harm: then the
guard keeps the queue short, and the promise is spent on accuracy.

Going down is immediate. Going up takes one point at a time and some calm periods. A point
at which the promise was broken is tried again, each time after twice as many calm periods
(`Break.patience`), so that a service on a constant load comes to rest and a short disturbance is
forgotten. A load that has fallen starts anew.

`point_of_call` is the guard between two decisions: a call of the executor takes fewer blocks at
once if what waits could not be answered in time.
"""

from dataclasses import dataclass, replace

PERIOD_S = 0.1
START_ALLOWANCE = 1.1  # share of the executor's time; the guard takes care of what is above 1
MIN_ALLOWANCE = 0.3
SHRINK = 0.85
RECOVER = 1.2
CALM_PERIODS = 10
MAX_PATIENCE = 1024 * CALM_PERIODS  # 17 minutes
SETTLE_PERIODS = CALM_PERIODS  # until a step down shows; meanwhile the guard shortens the queue
FALLEN = 0.5  # of the load at which the promise was broken
WEIGHT = 0.3  # of the newest period in a smoothed number
SLOW_WEIGHT = 0.03
GUARD = 0.7  # of the time that is left of the promise: what waits may take so much
CALL = 0.25  # of the promise that one call of the executor may take
FULL_ROWS = 8  # a smaller call takes more time for each history than `Point.row_s` says
MAX_QUANTILE = 0.9999  # it takes ten thousand answers to tell


@dataclass(frozen=True)
class Point:
    """A point at which the policy may run.

    Args:
        keep: mean share of blocks that run.
        mrr_at_20: on validation rows.
        row_s: the executor's time for a history in a full batch, in seconds.
    """

    keep: float
    mrr_at_20: float
    row_s: float


@dataclass(frozen=True)
class Promise:
    """What a service promises.

    Args:
        latency_ms: within which the share `quantile` of the requests is answered.
        min_mrr_at_20: points of less accuracy are never used. None: all points may be.
    """

    latency_ms: float
    quantile: float = 0.99
    min_mrr_at_20: float | None = None

    def __post_init__(self) -> None:
        if not self.latency_ms > 0:
            raise ValueError(f"expected a promised latency above 0 ms, got {self.latency_ms}")
        if not 0 < self.quantile <= MAX_QUANTILE:
            raise ValueError(f"expected a quantile from 0 to {MAX_QUANTILE}, got {self.quantile}")


@dataclass(frozen=True)
class Measured:
    """One period of a service.

    Args:
        rows_per_s: histories that arrived a second, refused ones included.
        busy: share of the period that the executor worked, whatever was asked for.
        slowdown: the executor's time over what `Point.row_s` says of its rows; None if no call was
            large enough to tell.
        latency_ms: the promised quantile of the latest answers; None if they are too few.
        oldest_wait_ms: how long the first request in the queue has waited.
    """

    rows_per_s: float
    busy: float
    slowdown: float | None
    latency_ms: float | None
    oldest_wait_ms: float


@dataclass(frozen=True)
class Smoothed:
    """The numbers of `Measured` over the latest periods; None: none was measured yet.

    Args:
        slow_rows_per_s: the load over some seconds, by which it is known to have fallen.
    """

    rows_per_s: float | None = None
    slow_rows_per_s: float | None = None
    busy: float | None = None
    slowdown: float | None = None

    def with_period(self, measured: Measured) -> "Smoothed":
        """The same with one period more."""
        return Smoothed(
            _smooth(self.rows_per_s, measured.rows_per_s),
            _smooth(self.slow_rows_per_s, measured.rows_per_s, SLOW_WEIGHT),
            _smooth(self.busy, measured.busy),
            _smooth(self.slowdown, measured.slowdown),
        )


@dataclass(frozen=True)
class Break:
    """The promise was broken.

    Args:
        point: at which it was.
        rows_per_s: the load at which it was.
        patience: calm periods before that point is tried again.
    """

    point: int
    rows_per_s: float
    patience: int


@dataclass(frozen=True)
class Standing:
    """What a decision hands to the next one.

    Args:
        point: index into the points.
        allowance: share of the executor's time that the load may fill.
        calm: periods in a row in which the next point up would have fitted.
        quiet: periods since the promise was last found broken.
        broken: where that was; None: it never was, or the load has fallen since.
    """

    point: int
    allowance: float = START_ALLOWANCE
    calm: int = 0
    quiet: int = CALM_PERIODS
    broken: Break | None = None
    seen: Smoothed = Smoothed()

    def share(self, point: Point, rows_per_s: float) -> float:
        """The share of the executor's time that a load fills at a point."""
        return rows_per_s * point.row_s * self.slowdown

    @property
    def slowdown(self) -> float:
        """How many times as long as `Point.row_s` the executor takes."""
        return 1.0 if self.seen.slowdown is None else self.seen.slowdown


def usable_points(points: list[Point], promise: Promise) -> tuple[Point, ...]:
    """The points worth using, rising in time and accuracy, and none below the floor.

    Raises:
        ValueError: no point reaches the floor.
    """
    best: list[Point] = []
    for point in sorted(points, key=lambda point: (point.row_s, -point.mrr_at_20)):
        if not best or point.mrr_at_20 > best[-1].mrr_at_20:
            best.append(point)
    floor = promise.min_mrr_at_20
    kept = tuple(point for point in best if floor is None or point.mrr_at_20 >= floor)
    if not kept:
        top = max(point.mrr_at_20 for point in points)
        raise ValueError(
            f"no point of the policy's curve reaches the floor: MRR@20 {floor} was asked for, and "
            f"the best has {top:.4f}"
        )
    return kept


def decide(
    points: tuple[Point, ...], promise: Promise, standing: Standing, measured: Measured
) -> Standing:
    """The standing after one period. No point changes while no request comes."""
    standing = replace(standing, seen=standing.seen.with_period(measured))
    if measured.rows_per_s <= 0 and measured.oldest_wait_ms <= 0:
        return standing
    load = standing.seen.rows_per_s or 0.0
    if measured.oldest_wait_ms > promise.latency_ms / 2:
        load = max(load, measured.rows_per_s)  # the queue says that it is more than noise
    if _is_broken(promise, measured) and _depth_may_help(points, promise, standing, measured):
        if standing.quiet >= SETTLE_PERIODS:
            return _lowered(points, standing, load)
        standing = replace(standing, quiet=standing.quiet + 1)
    else:
        standing = _recovered(standing)
    fitting = _fitting(points, standing, load)
    if fitting < standing.point:
        return replace(standing, point=fitting, calm=0)
    return _perhaps_raised(points, promise, standing, measured)


def point_of_call(
    points: tuple[Point, ...],
    promise: Promise,
    standing: Standing,
    rows_waiting: int,
    oldest_wait_ms: float,
) -> int:
    """The point of the next call: that of the standing, or one at which all is answered in time."""
    left_s = max(0.0, promise.latency_ms - oldest_wait_ms) / 1000
    point = standing.point
    while point > 0 and standing.share(points[point], rows_waiting) > GUARD * left_s:
        point -= 1
    return point


def rows_of_call(promise: Promise, standing: Standing, point: Point) -> int:
    """Histories that one call may have, so that the next decision need not wait long for it."""
    in_time = CALL * promise.latency_ms / 1000 / (point.row_s * standing.slowdown)
    return max(FULL_ROWS, int(in_time))


def _is_broken(promise: Promise, measured: Measured) -> bool:
    late = measured.latency_ms is not None and measured.latency_ms > promise.latency_ms
    return late or measured.oldest_wait_ms > promise.latency_ms


def _depth_may_help(
    points: tuple[Point, ...], promise: Promise, standing: Standing, measured: Measured
) -> bool:
    """Whether the executor can be why the promise is broken: it is busy, or slow for one history.

    Otherwise something else is late, such as the machine, and less depth would change nothing.
    """
    is_busy = max(measured.busy, standing.seen.busy or 0.0) > MIN_ALLOWANCE
    row_ms = 1000 * points[standing.point].row_s * standing.slowdown
    return is_busy or 2 * row_ms > promise.latency_ms


def _lowered(points: tuple[Point, ...], standing: Standing, load: float) -> Standing:
    """A point less at least, and a smaller allowance if the load should have fitted."""
    before, patience = standing.broken, CALM_PERIODS
    if before is not None:
        is_new = standing.quiet >= CALM_PERIODS
        patience = min(before.patience * (2 if is_new else 1), MAX_PATIENCE)
    should_fit = standing.share(points[standing.point], load) <= standing.allowance
    allowance = standing.allowance * (SHRINK if should_fit else 1)
    slow = max(standing.seen.slow_rows_per_s or 0.0, load)  # it has not fallen if it was lower
    lowered = replace(
        standing,
        seen=replace(standing.seen, slow_rows_per_s=slow),
        allowance=max(MIN_ALLOWANCE, allowance),
        calm=0,
        quiet=0,
        broken=Break(standing.point, load, patience),
    )
    point = min(_fitting(points, lowered, load), max(0, standing.point - 1))
    return replace(lowered, point=point)


def _recovered(standing: Standing) -> Standing:
    """A period without a broken promise: what was learned from the last one wears off."""
    standing = replace(standing, quiet=standing.quiet + 1)
    broken = standing.broken
    load = standing.seen.slow_rows_per_s or 0.0
    if broken is not None and load < FALLEN * broken.rows_per_s:
        standing, broken = replace(standing, broken=None), None
    patience = CALM_PERIODS if broken is None else broken.patience
    if standing.quiet % patience:
        return standing
    return replace(standing, allowance=min(START_ALLOWANCE, RECOVER * standing.allowance))


def _perhaps_raised(
    points: tuple[Point, ...],
    promise: Promise,
    standing: Standing,
    measured: Measured,
) -> Standing:
    """One point more, after enough periods in which it would have fitted."""
    above = standing.point + 1
    if above == len(points) or _is_broken(promise, measured):
        return replace(standing, calm=0)
    # How busy the executor is says more than the load and the times of full calls.
    busy = (standing.seen.busy or 0.0) * points[above].row_s / points[standing.point].row_s
    if busy > standing.allowance:
        return replace(standing, calm=0)
    broken = standing.broken
    needed = CALM_PERIODS if broken is None or above < broken.point else broken.patience
    if standing.calm + 1 < needed:
        return replace(standing, calm=standing.calm + 1)
    return replace(standing, point=above, calm=0)


def _fitting(points: tuple[Point, ...], standing: Standing, load: float) -> int:
    """The highest point, at most that of the standing, whose share the allowance allows."""
    point = standing.point
    while point > 0 and standing.share(points[point], load) > standing.allowance:
        point -= 1
    return point


def _smooth(before: float | None, now: float | None, weight: float = WEIGHT) -> float | None:
    if before is None or now is None:
        return now if before is None else before
    return (1 - weight) * before + weight * now
