"""The controller of depth keeps a promise of latency, in a simulated service and as a function."""

import bisect
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skiprec.service.control import (
    CALM_PERIODS,
    FULL_ROWS,
    GUARD,
    PERIOD_S,
    SETTLE_PERIODS,
    START_ALLOWANCE,
    Break,
    Measured,
    Point,
    Promise,
    Smoothed,
    Standing,
    decide,
    point_of_call,
    rows_of_call,
    usable_points,
)

PROMISE = Promise(latency_ms=50)
FULL_RATE = 100.0  # rows a second that fill the executor at full depth
POINTS = tuple(Point(keep, 0.1 * keep**0.5, keep / FULL_RATE) for keep in (0.2, 0.4, 0.6, 0.8, 1.0))


@dataclass
class Simulated:
    """A service whose executor takes `slowdown` times as long as the points say.

    The guard keeps the queue short, as long as the cheapest point can carry the load.
    """

    slowdown: float = 1.0
    latency_ms: float = PROMISE.latency_ms
    backlog_s: float = 0.0

    def period(self, point: int, rate: float) -> Measured:
        load = rate * POINTS[point].row_s * self.slowdown
        self.backlog_s = min(10.0, max(0.0, self.backlog_s + (load - 1) * PERIOD_S))
        if rate * POINTS[0].row_s * self.slowdown < 1:
            self.backlog_s = min(self.backlog_s, GUARD * self.latency_ms / 1000)
        service_ms = 1000 * POINTS[point].row_s * self.slowdown
        latency = service_ms * (1 + min(load, 0.99) / (1 - min(load, 0.99)) / 2)
        latency += 1000 * self.backlog_s
        slowdown = self.slowdown if rate else None
        return Measured(rate, min(1.0, load), slowdown, latency, 1000 * self.backlog_s)


def run(
    rates: list[float],
    slowdown: float = 1.0,
    start: Standing | None = None,
    promise: Promise = PROMISE,
) -> list[Standing]:
    service, standing = Simulated(slowdown, promise.latency_ms), start or Standing(len(POINTS) - 1)
    found = []
    for rate in rates:
        standing = decide(POINTS, promise, standing, service.period(standing.point, rate))
        found.append(standing)
    return found


def moves(standings: list[Standing]) -> int:
    return sum(a.point != b.point for a, b in pairwise(standings))


@settings(max_examples=200, deadline=None)
@given(
    rate=st.floats(1, 450),
    slowdown=st.floats(0.5, 2.0),
    point=st.integers(0, len(POINTS) - 1),
    latency_ms=st.floats(5, 500),
)
def test_on_a_constant_load_the_point_comes_to_rest(
    rate: float, slowdown: float, point: int, latency_ms: float
) -> None:
    """A point that breaks the promise is tried again ever more rarely, also one of one history."""
    standings = run([rate] * 4000, slowdown, Standing(point), Promise(latency_ms))
    for start, stop in ((200, 400), (400, 1000), (1000, 2000), (2000, 4000)):
        assert moves(standings[start:stop]) <= 10, "one or two tries, each of a few points"


@settings(max_examples=100, deadline=None)
@given(
    rate=st.floats(1, 200),
    noise=st.lists(st.floats(0.85, 1.15), min_size=400, max_size=400),
    slowdown=st.floats(0.8, 1.2),
)
def test_noise_does_not_make_it_swing(rate: float, noise: list[float], slowdown: float) -> None:
    """A load that is constant but for noise may meet the edge of a point; it crosses it rarely."""
    standings = run([rate * one for one in noise], slowdown)
    assert moves(standings[50:]) <= 350 / (2 * CALM_PERIODS)


@settings(deadline=None)
@given(st.floats(1, 450), st.floats(0.5, 2.0))
def test_the_point_that_it_rests_at_can_carry_the_load(rate: float, slowdown: float) -> None:
    last = run([rate] * 400, slowdown)[-1]
    load = rate * POINTS[last.point].row_s * slowdown
    assert last.point == 0 or load <= START_ALLOWANCE, "the guard takes care of the rest"


@given(st.lists(st.floats(0, 1000), min_size=1, max_size=100))
def test_it_never_leaves_the_curve_and_rises_one_point_at_a_time(rates: list[float]) -> None:
    standings = [Standing(2), *run(rates, start=Standing(2))]
    for before, after in pairwise(standings):
        assert 0 <= after.point < len(POINTS)
        assert after.point - before.point <= 1


@settings(max_examples=50, deadline=None)
@given(st.floats(200, 1000), st.integers(20, 200), st.floats(0.7, 1.3))
def test_when_the_load_falls_depth_comes_back(high: float, periods: int, slowdown: float) -> None:
    standings = run([high] * periods + [10.0] * 400, slowdown)
    assert standings[periods - 1].point < len(POINTS) - 1
    assert standings[-1].point == len(POINTS) - 1
    assert standings[-1].allowance == Standing(0).allowance


def test_a_disturbance_is_forgotten_although_the_load_stays() -> None:
    """For a second everything takes three times as long, and the load is as before."""
    before = run([70.0] * 50)
    service, standing = Simulated(3.0), before[-1]
    for _ in range(10):
        standing = decide(POINTS, PROMISE, standing, service.period(standing.point, 70.0))
    assert standing.point < before[-1].point
    after = run([70.0] * 300, start=standing)
    assert after[-1].point == before[-1].point


def test_each_try_of_a_point_that_breaks_the_promise_waits_twice_as_long() -> None:
    """Full depth takes 10 ms for one history, and 15 ms are promised: a latency of 16 ms."""
    strict, standing, tried = Promise(15), Standing(len(POINTS) - 1), []
    for period in range(1000):
        is_full = standing.point == len(POINTS) - 1
        measured = Measured(5.0, 0.05, 1.0, 16.0 if is_full else 12.0, 0.0)
        if is_full:
            tried.append(period)
        standing = decide(POINTS, strict, standing, measured)
    gaps = [b - a for a, b in pairwise(tried)]
    assert len(gaps) >= 5
    assert all(1.5 < b / a < 2.5 for a, b in pairwise(gaps)), gaps


def test_a_load_that_does_not_fit_goes_down_at_once_as_far_as_needed() -> None:
    top = Standing(len(POINTS) - 1)
    after = decide(POINTS, PROMISE, top, Measured(2 * FULL_RATE, 1.0, 1.0, 20.0, 0.0))
    assert POINTS[after.point].keep == 0.4  # 200 rows a second fill 0.8 of the time there


def test_one_busy_period_is_noise_unless_requests_wait() -> None:
    calm = Standing(len(POINTS) - 1, seen=Smoothed(50.0, 50.0, 0.5, 1.0))
    noise = decide(POINTS, PROMISE, calm, Measured(120.0, 0.5, 1.0, 20.0, 0.0))
    queue = decide(POINTS, PROMISE, calm, Measured(120.0, 0.5, 1.0, 20.0, 26.0))
    assert noise.point == calm.point > queue.point


def test_a_broken_promise_goes_down_although_the_load_should_fit() -> None:
    top = Standing(len(POINTS) - 1)
    for measured in (Measured(40, 0.4, 1.0, 51.0, 0.0), Measured(40, 0.4, 1.0, None, 51.0)):
        after = decide(POINTS, PROMISE, top, measured)
        assert after.point == top.point - 1
        assert after.broken == Break(top.point, 40, CALM_PERIODS)
        assert after.allowance < top.allowance
    assert decide(POINTS, PROMISE, top, Measured(40, 0.4, 1.0, 49.0, 49.0)).point == top.point


def test_a_step_down_gets_time_to_show() -> None:
    """What waits and was late a moment ago tells nothing of the new point."""
    late, standing = Measured(40, 0.4, 1.0, 51.0, 51.0), Standing(len(POINTS) - 1)
    points = []
    for _ in range(SETTLE_PERIODS + 3):
        standing = decide(POINTS, PROMISE, standing, late)
        points.append(standing.point)
    assert points == [3] * (SETTLE_PERIODS + 1) + [2, 2]


def test_a_broken_promise_that_is_not_the_executor_s_changes_nothing() -> None:
    """It is idle for most of the time, and a history takes it a fifth of the promise."""
    top, slow = Standing(len(POINTS) - 1), Measured(10, 0.1, 1.0, 500.0, 0.0)
    for _ in range(50):
        after = decide(POINTS, PROMISE, top, slow)
        assert (after.point, after.allowance, after.broken) == (top.point, top.allowance, None)
    strict = replace(PROMISE, latency_ms=15)
    after = decide(POINTS, strict, top, slow)
    assert after.point == top.point - 1, "a history takes it longer than half of this promise"


def test_small_calls_and_those_of_a_share_that_was_asked_for_keep_the_executor_busy() -> None:
    top = Standing(len(POINTS) - 1)
    after = decide(POINTS, PROMISE, top, Measured(10, 0.9, None, 500.0, 0.0))
    assert after.point == top.point - 1


def test_no_point_changes_while_no_request_comes() -> None:
    standing = Standing(1, 0.5, 2, 5, Break(2, 30.0, 20), Smoothed(40.0, 40.0, 0.5, 1.3))
    after = decide(POINTS, PROMISE, standing, Measured(0.0, 0.0, None, None, 0.0))
    assert after.seen.rows_per_s is not None
    assert after.seen.rows_per_s < 40
    assert replace(after, seen=standing.seen) == standing


def test_the_allowance_recovers_slowly_on_the_same_load_and_soon_once_it_has_fallen() -> None:
    def periods_until_recovered(rate: float) -> int:
        low = Standing(
            1, 0.4, quiet=0, broken=Break(2, 100.0, 80), seen=Smoothed(100.0, 100.0, 0.5, 1.0)
        )
        for period in range(1000):
            if low.allowance == Standing(0).allowance:
                return period
            low = decide(POINTS, PROMISE, low, Measured(rate, 0.5, 1.0, 10.0, 0.0))
        return 1000

    assert 2 * 80 <= periods_until_recovered(60) < 1000
    assert periods_until_recovered(20) < 160


def test_points_that_cost_more_and_give_no_more_are_left_out() -> None:
    wasteful = Point(0.7, 0.01, 1.0)
    found = usable_points([wasteful, *reversed(POINTS)], PROMISE)
    assert found == POINTS
    floor = replace(PROMISE, min_mrr_at_20=POINTS[2].mrr_at_20)
    assert usable_points(list(POINTS), floor) == POINTS[2:]
    with pytest.raises(ValueError, match=r"MRR@20 0.2 was asked for, and the best has 0.1000"):
        usable_points(list(POINTS), replace(PROMISE, min_mrr_at_20=0.2))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"latency_ms": 0}, "above 0 ms, got 0"),
        ({"latency_ms": float("nan")}, "above 0 ms, got nan"),
        ({"latency_ms": 5, "quantile": 1.0}, "from 0 to 0.9999, got 1.0"),
    ],
)
def test_a_promise_that_means_nothing_is_refused(changes: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Promise(**changes)


def test_an_executor_that_is_slower_than_measured_gets_less_load() -> None:
    standing = Standing(len(POINTS) - 1)
    for _ in range(20):
        standing = decide(POINTS, PROMISE, standing, Measured(75, 0.8, 2.0, 10.0, 0.0))
    assert POINTS[standing.point].keep == 0.6  # 75 x 0.6 x 2 / 100 is 0.9, and 1.1 is allowed
    assert standing.allowance == Standing(0).allowance


def test_going_up_takes_a_second() -> None:
    points = [standing.point for standing in run([10.0] * 25, start=Standing(0))]
    assert points == [0] * 9 + [1] * 10 + [2] * 6


def test_an_executor_that_small_calls_keep_busy_gets_no_further_block() -> None:
    """By the load a history takes it 0.2 of its time, and it is at work for 0.8 of it."""
    standings = []
    for busy in (0.2, 0.8):
        standing = Standing(1)
        for _ in range(15):
            standing = decide(POINTS, PROMISE, standing, Measured(50, busy, 1.0, 10.0, 0.0))
        standings.append(standing.point)
    assert standings == [2, 1]  # 0.8 would be 1.2 there


def test_a_call_takes_as_few_blocks_as_what_waits_needs() -> None:
    top = Standing(len(POINTS) - 1)

    def keep(rows: int, wait_ms: float, standing: Standing = top) -> float:
        return POINTS[point_of_call(POINTS, PROMISE, standing, rows, wait_ms)].keep

    assert keep(2, 0) == 1.0  # 20 ms, and 0.7 of what is left are 35
    assert keep(2, 25) == 0.8  # 16 ms of 17.5
    assert keep(4, 0) == 0.8
    assert keep(100, 0) == keep(1, 50) == keep(1, 500) == 0.2
    assert keep(1, 0, Standing(1)) == 0.4, "never more than the standing"
    assert keep(2, 0, replace(top, seen=Smoothed(slowdown=2.0))) == 0.8


def test_a_call_takes_a_quarter_of_the_promise_but_is_never_small() -> None:
    promise = Promise(latency_ms=800)
    assert rows_of_call(promise, Standing(4), POINTS[4]) == 20
    assert rows_of_call(promise, Standing(0), POINTS[0]) == 100
    assert rows_of_call(promise, Standing(0, seen=Smoothed(slowdown=2.0)), POINTS[0]) == 50
    assert rows_of_call(PROMISE, Standing(4), POINTS[4]) == FULL_ROWS


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("times", [0.5, 1.2, 2.0, 3.5])
def test_a_simulated_queue_keeps_the_promise_with_more_accuracy_than_a_fixed_depth(
    seed: int, times: float
) -> None:
    """Requests at random moments, a third of the time at `times` what full depth can take."""
    generator = np.random.default_rng(seed)
    moments_s = poisson(generator, [(10, 0.5), (10, times), (10, 0.5)])
    late, mrr = simulate_queue(moments_s, follows_load=True)
    assert late <= 0.01
    carries = [p for p, point in enumerate(POINTS) if times * FULL_RATE * point.row_s < 0.95]
    _, fixed_mrr = simulate_queue(moments_s, follows_load=False, start=carries[-1])
    if times > 1:
        assert mrr > fixed_mrr
        assert simulate_queue(moments_s, follows_load=False)[0] > 0.3, "full depth is late"
    else:
        assert mrr > 0.99 * fixed_mrr


def poisson(generator: np.random.Generator, phases: list[tuple[float, float]]) -> list[float]:
    found: list[float] = []
    start_s = 0.0
    for seconds, times in phases:
        count = generator.poisson(seconds * times * FULL_RATE)
        found += sorted(start_s + generator.uniform(0, seconds, count))
        start_s += seconds
    return found


def simulate_queue(
    moments_s: list[float], follows_load: bool, start: int = len(POINTS) - 1
) -> tuple[float, float]:
    """The share of late requests, and the mean accuracy; 100 ms are promised."""
    promise, standing = Promise(latency_ms=100), Standing(start)
    latencies_ms: list[float] = []
    recent: list[float] = []
    mrr, arrived, counted = 0.0, 0, 0
    now, decided, busy, arrived_before = 0.0, 0.0, 0.0, 0
    while counted < len(moments_s):
        now = max(now, moments_s[counted])
        arrived = bisect.bisect_right(moments_s, now)
        point, most = start, 256
        if follows_load:
            while decided + PERIOD_S <= now:
                decided += PERIOD_S
                come = bisect.bisect_right(moments_s, decided)
                quantile = float(np.quantile(recent, 0.99)) if len(recent) >= 100 else None
                oldest = 1000 * max(0.0, decided - moments_s[counted])
                measured = Measured(
                    (come - arrived_before) / PERIOD_S, busy / PERIOD_S, 1.0, quantile, oldest
                )
                before, standing = standing, decide(POINTS, promise, standing, measured)
                arrived_before, busy = come, 0.0
                if (before.point, before.allowance) != (standing.point, standing.allowance):
                    recent = []
            waited_ms = 1000 * (now - moments_s[counted])
            point = point_of_call(POINTS, promise, standing, arrived - counted, waited_ms)
            most = rows_of_call(promise, standing, POINTS[point])
        rows = min(most, arrived - counted)
        now += rows * POINTS[point].row_s
        busy += rows * POINTS[point].row_s
        done = [1000 * (now - moment) for moment in moments_s[counted : counted + rows]]
        latencies_ms += done
        recent = (recent + done)[-400:]
        mrr += rows * POINTS[point].mrr_at_20
        counted += rows
    return float(np.mean(np.array(latencies_ms) > 100)), mrr / len(moments_s)
