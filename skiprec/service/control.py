"""Which share of blocks a service can afford now: a pure decision, made several times a second.

Depth is what a service with a policy can give up without giving up a request. The decision looks
ahead: it knows the executor's time for a history at each point of the policy's curve on this
machine (`Point.row_s`), and takes the most accurate point at which the load fills no more than a
share of the executor's time, the allowance. And it looks back: if the promised latency is broken
all the same, the allowance shrinks.

Going down is immediate. Going up takes one point at a time, some calm periods and a margin, and an
allowance that has shrunk recovers only once the load has fallen. On a constant load the allowance
therefore never rises, and the point comes to rest.
"""

from dataclasses import dataclass, replace

START_ALLOWANCE = 0.8  # share of the executor's time
MIN_ALLOWANCE = 0.3
SHRINK = 0.85
MARGIN_UP = 0.9  # of the allowance that the next point up may fill
CALM_PERIODS = 4
FALLEN = 0.8  # of the load at which the allowance last shrank
RECOVER = 1.1
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
        slowdown: the executor's time in this period over what `Point.row_s` says of its rows; None
            if it had no rows.
        latency_ms: the promised quantile of the latest answers; None without an answer.
        oldest_wait_ms: how long the first request in the queue has waited.
    """

    rows_per_s: float
    slowdown: float | None
    latency_ms: float | None
    oldest_wait_ms: float


@dataclass(frozen=True)
class Standing:
    """What a decision hands to the next one.

    Args:
        point: index into the points.
        allowance: share of the executor's time that the load may fill.
        calm: periods in a row in which the next point up would have fitted.
        shrunk_at: the load, in rows a second, at which the allowance last shrank; 0: it never did.
        slowdown: smoothed.
    """

    point: int
    allowance: float = START_ALLOWANCE
    calm: int = 0
    shrunk_at: float = 0.0
    slowdown: float = 1.0


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
    """The standing after one period. Nothing moves while nothing is measured."""
    if measured.rows_per_s <= 0 and measured.oldest_wait_ms <= 0:
        return standing
    if measured.slowdown is not None:
        smoothed = 0.7 * standing.slowdown + 0.3 * measured.slowdown
        standing = replace(standing, slowdown=smoothed)
    row_s = points[standing.point].row_s * standing.slowdown
    is_broken = _is_broken(promise, measured) and _depth_may_help(promise, measured, row_s)
    standing = _with_allowance(standing, measured, is_broken)

    def share(point: int) -> float:
        return measured.rows_per_s * points[point].row_s * standing.slowdown

    point = standing.point
    if share(point) > standing.allowance or is_broken:
        while point > 0 and share(point) > standing.allowance:
            point -= 1
        if point == standing.point and point > 0:
            point -= 1  # the promise is broken, although the load should fit
        return replace(standing, point=point, calm=0)
    fits_above = (
        point + 1 < len(points)
        and share(point + 1) <= MARGIN_UP * standing.allowance
        and (measured.latency_ms is None or measured.latency_ms <= promise.latency_ms)
    )
    if not fits_above:
        return replace(standing, calm=0)
    if standing.calm + 1 < CALM_PERIODS:
        return replace(standing, calm=standing.calm + 1)
    return replace(standing, point=point + 1, calm=0)


def _is_broken(promise: Promise, measured: Measured) -> bool:
    late = measured.latency_ms is not None and measured.latency_ms > promise.latency_ms
    return late or measured.oldest_wait_ms > promise.latency_ms


def _depth_may_help(promise: Promise, measured: Measured, row_s: float) -> bool:
    """Whether the executor can be why the promise is broken: it is busy, or slow for one history.

    Otherwise something else is late, such as the machine, and less depth would change nothing.
    """
    is_busy = measured.rows_per_s * row_s > MIN_ALLOWANCE
    return is_busy or 2000 * row_s > promise.latency_ms


def _with_allowance(standing: Standing, measured: Measured, is_broken: bool) -> Standing:
    """A broken promise shrinks the allowance; a load that has fallen lets it recover."""
    if is_broken:
        return replace(
            standing,
            allowance=max(MIN_ALLOWANCE, SHRINK * standing.allowance),
            shrunk_at=max(measured.rows_per_s, standing.shrunk_at),
        )
    if measured.rows_per_s < FALLEN * standing.shrunk_at:
        allowance = min(START_ALLOWANCE, RECOVER * standing.allowance)
        shrunk_at = 0.0 if allowance == START_ALLOWANCE else standing.shrunk_at
        return replace(standing, allowance=allowance, shrunk_at=shrunk_at)
    return standing
