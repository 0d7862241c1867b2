"""The controller of depth keeps a promise of latency, in a simulated service and as a function."""

from dataclasses import dataclass, replace
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skiprec.service.control import (
    CALM_PERIODS,
    Measured,
    Point,
    Promise,
    Standing,
    decide,
    usable_points,
)

PERIOD_S = 0.25
PROMISE = Promise(latency_ms=50)
FULL_RATE = 100.0  # rows a second that fill the executor at full depth
POINTS = tuple(Point(keep, 0.1 * keep**0.5, keep / FULL_RATE) for keep in (0.2, 0.4, 0.6, 0.8, 1.0))


@dataclass
class Simulated:
    """A service whose executor takes `slowdown` times as long as the points say."""

    slowdown: float = 1.0
    backlog_s: float = 0.0

    def period(self, point: int, rate: float) -> Measured:
        load = rate * POINTS[point].row_s * self.slowdown
        self.backlog_s = min(10.0, max(0.0, self.backlog_s + (load - 1) * PERIOD_S))
        service_ms = 1000 * POINTS[point].row_s * self.slowdown
        latency = service_ms * (1 + min(load, 0.99) / (1 - min(load, 0.99)) / 2)
        latency += 1000 * self.backlog_s
        return Measured(rate, self.slowdown if rate else None, latency, 1000 * self.backlog_s)


def run(rates: list[float], slowdown: float = 1.0, start: Standing | None = None) -> list[Standing]:
    service, standing = Simulated(slowdown), start or Standing(len(POINTS) - 1)
    found = []
    for rate in rates:
        standing = decide(POINTS, PROMISE, standing, service.period(standing.point, rate))
        found.append(standing)
    return found


@settings(max_examples=200)
@given(
    rate=st.floats(1, 450),
    slowdown=st.floats(0.5, 2.0),
    point=st.integers(0, len(POINTS) - 1),
)
def test_on_a_constant_load_the_point_comes_to_rest(
    rate: float, slowdown: float, point: int
) -> None:
    standings = run([rate] * 400, slowdown, Standing(point))
    assert len({standing.point for standing in standings[300:]}) == 1


@settings(max_examples=100)
@given(
    rate=st.floats(1, 200),
    noise=st.lists(st.floats(0.93, 1.07), min_size=400, max_size=400),
    slowdown=st.floats(0.8, 1.2),
)
def test_noise_does_not_make_it_swing(rate: float, noise: list[float], slowdown: float) -> None:
    """A load that is constant but for noise may meet the edge of a point; it crosses it rarely."""
    points = [standing.point for standing in run([rate * one for one in noise], slowdown)]
    moves = sum(a != b for a, b in pairwise(points[50:]))
    assert moves <= 350 / (2 * CALM_PERIODS)


@given(st.floats(1, 450), st.floats(0.5, 2.0))
def test_the_point_that_it_rests_at_can_carry_the_load(rate: float, slowdown: float) -> None:
    last = run([rate] * 400, slowdown)[-1]
    assert last.point == 0 or rate * POINTS[last.point].row_s * slowdown < 1


@given(st.lists(st.floats(0, 1000), min_size=1, max_size=100))
def test_it_never_leaves_the_curve_and_rises_one_point_at_a_time(rates: list[float]) -> None:
    standings = [Standing(2), *run(rates, start=Standing(2))]
    for before, after in pairwise(standings):
        assert 0 <= after.point < len(POINTS)
        assert after.point - before.point <= 1


@settings(max_examples=50)
@given(st.floats(150, 1000), st.integers(20, 200), st.floats(0.7, 1.3))
def test_when_the_load_falls_depth_comes_back(high: float, periods: int, slowdown: float) -> None:
    standings = run([high] * periods + [10.0] * 400, slowdown)
    assert standings[periods - 1].point < len(POINTS) - 1
    assert standings[-1].point == len(POINTS) - 1
    assert standings[-1].allowance == Standing(0).allowance


def test_a_load_that_does_not_fit_goes_down_at_once_as_far_as_needed() -> None:
    top = Standing(len(POINTS) - 1)
    after = decide(POINTS, PROMISE, top, Measured(2 * FULL_RATE, 1.0, 20.0, 0.0))
    assert POINTS[after.point].keep == 0.4  # 200 rows a second fill 0.8 of the time there


def test_a_broken_promise_goes_down_although_the_load_should_fit() -> None:
    top = Standing(len(POINTS) - 1)
    for measured in (Measured(40, 1.0, 51.0, 0.0), Measured(40, 1.0, None, 51.0)):
        after = decide(POINTS, PROMISE, top, measured)
        assert (after.point, after.shrunk_at) == (top.point - 1, 40)
        assert after.allowance < top.allowance
    assert decide(POINTS, PROMISE, top, Measured(40, 1.0, 49.0, 49.0)).point == top.point


def test_a_broken_promise_that_is_not_the_executor_s_changes_nothing() -> None:
    """It is idle for most of the time, and a history takes it a fifth of the promise."""
    top = Standing(len(POINTS) - 1)
    assert decide(POINTS, PROMISE, top, Measured(10, 1.0, 500.0, 0.0)) == top
    strict = replace(PROMISE, latency_ms=15)
    after = decide(POINTS, strict, top, Measured(10, 1.0, 500.0, 0.0))
    assert after.point == top.point - 1, "a history takes it longer than half of this promise"


def test_nothing_moves_while_nothing_is_measured() -> None:
    standing = Standing(1, 0.5, 2, 30.0, 1.3)
    assert decide(POINTS, PROMISE, standing, Measured(0.0, None, None, 0.0)) == standing


def test_the_allowance_stays_low_until_the_load_has_fallen() -> None:
    low = Standing(1, allowance=0.4, shrunk_at=100.0)
    same = decide(POINTS, PROMISE, low, Measured(81, 1.0, 10.0, 0.0))
    fallen = decide(POINTS, PROMISE, low, Measured(79, 1.0, 10.0, 0.0))
    assert same.allowance == 0.4 < fallen.allowance


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
        standing = decide(POINTS, PROMISE, standing, Measured(60, 2.0, 10.0, 0.0))
    assert POINTS[standing.point].keep == 0.6  # 60 x 0.6 x 2 / 100 is 0.72
    assert standing.allowance == Standing(0).allowance


def test_going_up_takes_a_second() -> None:
    points = [standing.point for standing in run([10.0] * 12, start=Standing(0))]
    assert points == [0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3]
