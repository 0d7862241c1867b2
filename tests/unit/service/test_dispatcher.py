"""What waits goes together, is answered once and in order, and may be refused."""

import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from skiprec.inference.recommender import Id, Recommendation
from skiprec.service.dispatcher import (
    Dispatcher,
    Done,
    Options,
    QueueFullError,
    StoppingError,
    TooLateError,
    Work,
)

OPTIONS = Options(k=5, exclude_seen=True, allow=None, deny=None, keep=None)
LATER_S = 1e6


def listed(history: list[Id], k: int) -> Recommendation:
    """A list that tells which history it is for."""
    items = [f"{history}-{place}" for place in range(k)]
    return Recommendation(items, [0.0] * k, "model", [], len(history), None)


class Executor:
    """Answers once it is let go, and remembers its calls."""

    def __init__(self) -> None:
        self.calls: list[tuple[list[list[Id]], Options]] = []
        self.plans: list[tuple[int, float]] = []
        self.goes_on = threading.Event()
        self.is_busy = threading.Event()

    def plan(self, rows_waiting: int, oldest_wait_s: float) -> int:
        self.plans.append((rows_waiting, oldest_wait_s))
        return 8

    def answer(
        self, histories: list[list[Id]], options: Options
    ) -> tuple[list[Recommendation], str, float | None]:
        self.is_busy.set()
        assert self.goes_on.wait(10)
        self.calls.append((histories, options))
        if histories[0] == ["wrong"]:
            raise ValueError("no item may be recommended")
        return [listed(history, options.k) for history in histories], "model", options.keep


@pytest.fixture
def executor() -> Executor:
    return Executor()


@pytest.fixture
def dispatcher(executor: Executor) -> Iterator[Dispatcher]:
    dispatcher = Dispatcher(executor.answer, executor.plan, max_waiting=20)
    yield dispatcher
    executor.goes_on.set()
    dispatcher.close()


class Asked:
    """Requests, and what came back for each."""

    def __init__(self, dispatcher: Dispatcher) -> None:
        self.dispatcher = dispatcher
        self.outcomes: dict[int, Done | Exception] = {}

    def __call__(
        self, number: int, rows: int = 1, options: Options = OPTIONS, due_s: float = LATER_S
    ) -> Work:
        histories: list[list[Id]] = [[number, row] for row in range(rows)]
        work = Work(
            histories,
            options,
            lambda outcome: self.outcomes.setdefault(number, outcome),
            time.monotonic() + due_s,
        )
        self.dispatcher.submit(work)
        return work

    def wait(self, count: int) -> None:
        end = time.monotonic() + 10
        while len(self.outcomes) < count:
            assert time.monotonic() < end, self.outcomes
            time.sleep(0.001)


@pytest.fixture
def ask(dispatcher: Dispatcher) -> Asked:
    return Asked(dispatcher)


def busy(ask: Asked, executor: Executor) -> None:
    """The executor works on request 0; what comes now waits."""
    ask(0)
    assert executor.is_busy.wait(10)


def rows_of(executor: Executor) -> list[list[Any]]:
    return [[history[0] for history in histories] for histories, _ in executor.calls]


def test_what_arrives_while_the_executor_is_busy_goes_together(
    ask: Asked, executor: Executor
) -> None:
    busy(ask, executor)
    for number in (1, 2, 3):
        ask(number, rows=2)
    executor.goes_on.set()
    ask.wait(4)
    assert rows_of(executor) == [[0], [1, 1, 2, 2, 3, 3]]
    for number in (1, 2, 3):
        done = ask.outcomes[number]
        assert isinstance(done, Done)
        assert done.rows == [listed([number, row], 5) for row in range(2)]


def test_a_call_has_no_more_than_its_rows_and_the_order_is_that_of_arrival(
    ask: Asked, executor: Executor
) -> None:
    busy(ask, executor)
    for number, rows in ((1, 5), (2, 4), (3, 3), (4, 1)):
        ask(number, rows)
    executor.goes_on.set()
    ask.wait(5)
    assert rows_of(executor) == [[0], [1] * 5, [2] * 4 + [3] * 3 + [4]]


def test_each_call_is_planned_with_what_waits(ask: Asked, executor: Executor) -> None:
    busy(ask, executor)
    for number, rows in ((1, 5), (2, 4)):
        ask(number, rows)
    time.sleep(0.02)
    executor.goes_on.set()
    ask.wait(3)
    assert [rows for rows, _ in executor.plans] == [1, 9, 4]
    assert executor.plans[0][1] < 0.02 <= executor.plans[1][1]


def test_a_request_of_more_rows_than_a_call_goes_alone(ask: Asked, executor: Executor) -> None:
    busy(ask, executor)
    ask(1, rows=12)
    ask(2)
    executor.goes_on.set()
    ask.wait(3)
    assert rows_of(executor) == [[0], [1] * 12, [2]]


def test_only_equal_options_share_a_call_and_the_longest_list_serves_all(
    ask: Asked, executor: Executor
) -> None:
    busy(ask, executor)
    different = [
        OPTIONS,
        Options(5, False, None, None, None),
        Options(9, True, None, None, None),
        Options(5, True, ("a",), None, None),
        Options(5, True, None, ("a",), None),
        Options(5, True, None, None, 0.5),
    ]
    for number, options in enumerate(different, start=1):
        ask(number, options=options)
    executor.goes_on.set()
    ask.wait(7)
    assert rows_of(executor) == [[0], [1, 3], [2], [4], [5], [6]]
    assert [options.k for _, options in executor.calls] == [5, 9, 5, 5, 5, 5]


def test_a_full_queue_refuses_and_has_room_again_later(ask: Asked, executor: Executor) -> None:
    busy(ask, executor)
    ask(1, rows=15)
    assert ask.dispatcher.rows_waiting == 15
    with pytest.raises(QueueFullError, match="15 histories wait and the queue holds 20"):
        ask(2, rows=6)
    ask(3, rows=5)
    executor.goes_on.set()
    ask.wait(3)
    assert ask.dispatcher.rows_waiting == 0
    ask(4, rows=20)
    ask.wait(4)


def test_a_request_beyond_its_deadline_is_not_computed(ask: Asked, executor: Executor) -> None:
    busy(ask, executor)
    ask(1, due_s=0.0)
    ask(2)
    time.sleep(0.01)
    executor.goes_on.set()
    ask.wait(3)
    assert isinstance(ask.outcomes[1], TooLateError)
    assert rows_of(executor) == [[0], [2]]


def test_a_request_that_a_client_has_left_is_not_computed(ask: Asked, executor: Executor) -> None:
    busy(ask, executor)
    ask(1).is_wanted = False
    ask(2)
    executor.goes_on.set()
    ask.wait(2)
    assert rows_of(executor) == [[0], [2]]
    assert ask.dispatcher.rows_waiting == 0


def test_an_error_reaches_every_request_of_the_call_and_no_other(
    ask: Asked, executor: Executor
) -> None:
    busy(ask, executor)
    other = Options(5, False, None, None, None)
    ask(1, options=other)
    wrong = Work([["wrong"]], OPTIONS, lambda outcome: ask.outcomes.setdefault(2, outcome), 1e9)
    ask.dispatcher.submit(wrong)
    ask(3)
    executor.goes_on.set()
    ask.wait(4)
    assert isinstance(ask.outcomes[1], Done)
    for number in (2, 3):
        assert str(ask.outcomes[number]) == "no item may be recommended"
    ask(5)
    ask.wait(5)
    assert isinstance(ask.outcomes[5], Done), "the thread goes on after an error"


def test_closing_answers_what_waits_and_refuses_what_comes(ask: Asked, executor: Executor) -> None:
    busy(ask, executor)
    ask(1)
    closing = threading.Thread(target=ask.dispatcher.close)
    closing.start()
    time.sleep(0.02)
    with pytest.raises(StoppingError, match="the service is stopping"):
        ask(2)
    executor.goes_on.set()
    closing.join(10)
    assert not closing.is_alive()
    assert isinstance(ask.outcomes[1], Done)


def test_how_long_the_first_request_waits(ask: Asked, executor: Executor) -> None:
    assert ask.dispatcher.oldest_wait_s() == 0
    busy(ask, executor)
    ask(1)
    time.sleep(0.05)
    ask(2)
    assert 0.05 <= ask.dispatcher.oldest_wait_s() < 5


def test_a_request_is_late_also_while_other_groups_are_answered(
    ask: Asked, executor: Executor
) -> None:
    busy(ask, executor)
    other = Options(5, False, None, None, None)
    real = executor.answer

    def slow(histories: list[list[Id]], options: Options) -> Any:
        time.sleep(0.1)
        return real(histories, options)

    ask.dispatcher._answer = slow
    ask(1, due_s=5)
    ask(2, options=other, due_s=0.15)
    time.sleep(0.1)
    executor.goes_on.set()
    ask.wait(3)
    assert isinstance(ask.outcomes[1], Done)
    assert isinstance(ask.outcomes[2], TooLateError)


def test_a_caller_that_is_gone_does_not_end_the_dispatcher(ask: Asked, executor: Executor) -> None:
    def closed(outcome: Any) -> None:
        raise RuntimeError("Event loop is closed")

    executor.goes_on.set()
    ask.dispatcher.submit(Work([[1]], OPTIONS, closed, 1e9))
    ask(2)
    ask.wait(1)
    assert isinstance(ask.outcomes[2], Done)
