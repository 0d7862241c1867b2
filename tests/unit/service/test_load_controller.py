"""The thread that measures: what it counts reaches the decision, and a new model starts anew."""

from pathlib import Path

import pytest

from skiprec.inference import Recommender
from skiprec.inference.saved_model import CurvePoint
from skiprec.service.control import Point, Promise
from skiprec.service.load_controller import LoadController, measure_points, times_at
from tests.testkit.exports import IDS, export_small_model

POINTS = tuple(Point(keep, 0.1 * keep**0.5, keep / 100) for keep in (0.25, 0.5, 1.0))


@pytest.fixture
def controller() -> LoadController:
    controller = LoadController(Promise(latency_ms=50, quantile=0.9), lambda: 0.0)
    controller.use_points(POINTS)
    return controller


def test_a_load_that_does_not_fit_moves_the_point_and_tells_of_it() -> None:
    shown: list[Point] = []
    controller = LoadController(Promise(latency_ms=50), lambda: 0.0, shown.append)
    controller.use_points(POINTS)
    controller.count_arrival(30)
    controller.decide_once(period_s=0.2)  # 150 rows a second, of which full depth takes 100
    assert controller.point == POINTS[1]
    assert shown == [POINTS[2], POINTS[1]]
    controller.decide_once(period_s=0.2)
    assert controller.point == POINTS[1], "arrivals count once"


def test_late_answers_move_the_point_once_there_are_enough(controller: LoadController) -> None:
    for latency_ms in [10.0] * 8 + [90.0]:
        controller.count_answer(latency_ms)
    controller.count_call(rows=20, seconds=0.25, point=POINTS[2])
    controller.count_arrival(20)
    controller.decide_once(period_s=0.5)
    assert controller.point == POINTS[2], "nine answers do not tell of one in ten"
    for _ in range(9):
        controller.count_answer(90.0)
    controller.count_arrival(20)
    controller.decide_once(period_s=0.5)
    assert controller.point == POINTS[1]


def test_only_the_latest_answers_count(controller: LoadController) -> None:
    for latency_ms in [90.0] * 400 + [10.0] * 40:
        controller.count_answer(latency_ms)
    controller.count_arrival(20)
    controller.decide_once(period_s=0.5)
    assert controller.point == POINTS[2]


def test_an_executor_that_is_slower_than_at_the_start_counts(controller: LoadController) -> None:
    for _ in range(20):
        controller.count_arrival(30)
        point = controller.point
        controller.count_call(rows=10, seconds=20 * point.row_s, point=point)
        controller.count_call(rows=2, seconds=9.9, point=point)  # too small to tell
        controller.count_call(rows=10, seconds=9.9, point=None)  # at a share that was asked for
        controller.decide_once(period_s=0.5)
    assert controller.point == POINTS[1]  # 60 rows a second, each of twice its time


def test_every_call_keeps_the_executor_busy(controller: LoadController) -> None:
    """Ten slow answers are the executor's fault only if it was at work."""
    for seconds, point in ((0.0, POINTS[2]), (0.4, POINTS[1])):
        for _ in range(10):
            controller.count_answer(90.0)
        controller.count_call(rows=1, seconds=seconds, point=None)
        controller.count_arrival(1)
        controller.decide_once(period_s=0.5)
        assert controller.point == point


def test_the_plan_of_a_call_follows_what_waits(controller: LoadController) -> None:
    assert controller.plan_call(rows_waiting=2, oldest_wait_s=0.0) == (POINTS[2], 8)
    assert controller.plan_call(rows_waiting=4, oldest_wait_s=0.0) == (POINTS[1], 8)
    assert controller.plan_call(rows_waiting=4, oldest_wait_s=0.04) == (POINTS[0], 8)
    assert controller.point == POINTS[2], "the next decision begins where the last one ended"


def test_a_new_model_is_not_judged_by_the_answers_of_the_old_one(
    controller: LoadController,
) -> None:
    for _ in range(40):
        controller.count_answer(500.0)
    controller.count_arrival(1000)
    controller.use_points(POINTS)
    controller.count_arrival(20)
    controller.decide_once(period_s=0.5)
    assert controller.point == POINTS[2]


def test_times_of_points_lie_between_the_measured_ones() -> None:
    curve = [CurvePoint(keep, 0.0, 0.1, 0.2) for keep in (0.1, 0.3, 0.7, 1.0)]
    # The timed histories keep other shares than the validation rows.
    found = times_at([0.4, 0.2, 0.8], [0.005, 0.003, 0.013], curve)
    assert found == pytest.approx([0.003, 0.004, 0.011, 0.013 + 0.2 * 0.01 / 0.6])
    same = times_at([0.5, 0.5, 0.5], [0.002, 0.004, 0.003], curve)
    assert same == pytest.approx([0.003] * 4)
    disturbed = times_at([0.1, 0.3, 0.7], [0.001, 0.009, 0.002], curve)
    assert disturbed == sorted(disturbed)


def test_deeper_points_of_a_model_take_longer(tmp_path: Path) -> None:
    export_small_model(tmp_path / "model", kind="cost", num_blocks=32, width=64)
    recommender = Recommender.load(tmp_path / "model")
    points = measure_points(recommender, [[IDS[0], IDS[3]], [], [IDS[5]] * 6])
    assert [point.keep for point in points] == [point.keep for point in recommender.spec.curve]
    assert points[-1].row_s > 1.5 * points[0].row_s > 0
