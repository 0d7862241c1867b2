"""The service answers over HTTP what `Recommender` answers, and says what is wrong."""

import json
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from skiprec.inference import Recommender
from skiprec.service.control import Promise
from skiprec.service.service import Service
from tests.testkit.exports import IDS, WINDOW, export_small_model
from tests.testkit.service import TOKEN, ask, raw_connection, serving

HISTORIES: list[list[str | int]] = [
    [IDS[0], IDS[1]],
    [],
    ["nobody knows this", IDS[4]],
    [4, 2],
    IDS * 300,
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("export") / "model"
    export_small_model(folder)
    return folder


@pytest.fixture(scope="module")
def running(folder: Path) -> Iterator[tuple[Service, str]]:
    with serving(folder, max_waiting=300, max_body_mb=0.5, body_timeout_s=0.5) as running:
        yield running


@pytest.fixture(scope="module")
def address(running: tuple[Service, str]) -> str:
    return running[1]


def expected(folder: Path, histories: list[Any], **options: Any) -> list[dict[str, Any]]:
    """The results as the library gives them."""
    rows = Recommender.load(folder).recommend(histories, **options)
    fields = ("items", "scores", "unknown", "source", "read", "kept_blocks")
    return [{name: getattr(row, name) for name in fields} | {"names": None} for row in rows]


def without_times(answer: dict[str, Any]) -> list[dict[str, Any]]:
    return [{k: v for k, v in result.items() if k != "ms"} for result in answer["results"]]


@pytest.mark.parametrize(
    "options",
    [
        {"k": 3, "explain": True},
        {"k": 7, "exclude_seen": False},
        {"k": 4, "allow": [IDS[2], IDS[3], 6, "unknown"], "deny": [IDS[3]], "keep": 0.5},
        {"k": 30, "keep": 1, "explain": True},
    ],
)
def test_answers_are_those_of_the_library(
    folder: Path, address: str, options: dict[str, Any]
) -> None:
    response = ask(address, {"histories": HISTORIES, **options})
    assert response.status_code == 200, response.text
    answer = response.json()
    assert without_times(answer) == expected(folder, HISTORIES, **options)
    assert answer["model"].startswith("run@")
    assert answer["keep"] == options.get("keep")
    for result in answer["results"]:
        ms = result["ms"]
        assert 0 <= ms["waiting"] + ms["executor"] <= ms["total"] + 0.01


def test_ten_items_without_seen_ones_are_the_default(folder: Path, address: str) -> None:
    answer = ask(address, {"histories": HISTORIES}).json()
    found = [result["items"] for result in answer["results"]]
    assert found == [row["items"] for row in expected(folder, HISTORIES, k=10)]
    assert {result["kept_blocks"] for result in answer["results"]} == {None}


def test_answers_do_not_depend_on_what_else_is_asked(folder: Path, address: str) -> None:
    """Requests of many threads, of several options and lengths, in batches as they fall."""
    requests = [
        {
            "histories": [HISTORIES[n % 5], HISTORIES[n % 3]],
            "k": 1 + n % 9,
            "exclude_seen": n % 2 > 0,
        }
        for n in range(60)
    ]
    with ThreadPoolExecutor(12) as pool:
        answers = list(pool.map(lambda body: ask(address, body).json(), requests))
    for body, answer in zip(requests, answers, strict=True):
        options = {"k": body["k"], "exclude_seen": body["exclude_seen"]}
        wanted = expected(folder, body["histories"], **options)
        assert [r["items"] for r in answer["results"]] == [row["items"] for row in wanted]


def test_the_other_routes(address: str) -> None:
    assert httpx.get(f"{address}/healthz").json() == {"status": "ok"}
    ready = httpx.get(f"{address}/readyz").json()
    model = httpx.get(f"{address}/v1/model").json()
    assert ready == {"status": "ready", "model": model["model"]}
    assert (model["blocks"], model["window"], model["items"]) == (4, WINDOW, len(IDS))
    keeps = [point["keep"] for point in model["curve"]]
    assert keeps == sorted(keeps)
    ask(address, {"histories": [[IDS[0]]]})
    text = httpx.get(f"{address}/metrics").text
    assert 'skiprec_requests_total{status="200"}' in text
    assert 'skiprec_histories_total{source="model"}' in text
    assert "skiprec_call_rows_bucket" in text


def test_the_pages_of_the_api_load_nothing_from_elsewhere(address: str) -> None:
    schema = httpx.get(f"{address}/openapi.json").json()
    assert "/v1/recommend" in schema["paths"]
    page = httpx.get(f"{address}/docs")
    assert page.status_code == 200
    assert "://" not in page.text
    for name in ("swagger-ui-bundle.js", "swagger-ui.css"):
        assert name in page.text
        assert httpx.get(f"{address}/static-offline-docs/{name}").status_code == 200


def test_what_a_client_has_left_is_not_computed(running: tuple[Service, str]) -> None:
    service, address = running
    real, goes_on = service.dispatcher._answer, threading.Event()
    computed: list[int] = []

    def slow(histories: Any, options: Any) -> Any:
        computed.append(options.k)
        goes_on.wait(10)
        return real(histories, options)

    service.dispatcher._answer = slow
    try:
        with ThreadPoolExecutor(1) as pool:
            first = pool.submit(ask, address, {"histories": [[]], "k": 2})
            wait_for(lambda: computed == [2])
            with pytest.raises(httpx.ReadTimeout):
                ask(address, {"histories": [[]], "k": 3}, timeout_s=0.2)
            wait_for(lambda: service.dispatcher._waiting[0].is_wanted is False)
            goes_on.set()
            assert first.result().status_code == 200
        assert ask(address, {"histories": [[]], "k": 4}).status_code == 200
        assert computed == [2, 4]
    finally:
        service.dispatcher._answer = real


def wait_for(condition: Any) -> None:
    end = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.005)


def test_a_full_queue_and_a_late_request_are_told_when_to_come_again(folder: Path) -> None:
    with serving(folder, max_waiting=4, max_histories=4, deadline_ms=150) as (service, address):
        real, began, goes_on = service.dispatcher._answer, threading.Event(), threading.Event()

        def slow(*given: Any) -> Any:
            began.set()
            goes_on.wait(10)
            return real(*given)

        service.dispatcher._answer = slow
        with ThreadPoolExecutor(2) as pool:
            first = pool.submit(ask, address, {"histories": [[]]})
            assert began.wait(10)
            late = pool.submit(ask, address, {"histories": [[]] * 3})
            wait_for(lambda: service.dispatcher.rows_waiting == 3)
            refused = ask(address, {"histories": [[]] * 2})
            assert (refused.status_code, refused.headers["retry-after"]) == (429, "1")
            assert refused.json()["error"].endswith("3 histories wait and the queue holds 4")
            time.sleep(0.15)
            goes_on.set()
            assert first.result().status_code == 200
            answer = late.result()
        assert (answer.status_code, answer.headers["retry-after"]) == (504, "1")
        assert answer.json()["error"] == "the request has waited longer than 150 ms"


def test_a_failure_of_the_executor_is_an_error_without_details(
    running: tuple[Service, str], caplog: pytest.LogCaptureFixture
) -> None:
    service, address = running
    real = service.dispatcher._answer

    def fails(histories: Any, options: Any) -> Any:
        raise RuntimeError("a secret of the machine")

    service.dispatcher._answer = fails
    try:
        response = ask(address, {"histories": [["a private item"]]})
    finally:
        service.dispatcher._answer = real
    assert response.status_code == 500
    assert response.json() == {
        "error": "the service has failed; its log says why",
        "problems": [],
    }
    assert "a secret of the machine" in caplog.text
    assert "a private item" not in caplog.text
    assert ask(address, {"histories": [[]]}).status_code == 200


def test_a_service_that_stops_says_so(folder: Path) -> None:
    with serving(folder) as (service, address):
        service.dispatcher.close()
        refused = ask(address, {"histories": [[]]})
        assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
        assert refused.json()["error"] == "the service is stopping"


@pytest.mark.parametrize(("where", "route"), [("recommend", "recommend"), ("metrics", "metrics")])
def test_what_nobody_expected_is_an_error_like_any_other(
    folder: Path, monkeypatch: pytest.MonkeyPatch, where: str, route: str
) -> None:
    with serving(folder) as (service, address):

        def fails(*given: Any) -> Any:
            raise RuntimeError("a secret of the machine")

        owner: Any = service if where == "recommend" else service.metrics
        monkeypatch.setattr(owner, "recommend" if where == "recommend" else "text", fails)
        if route == "recommend":
            response = ask(address, {"histories": [[]]})
        else:
            response = httpx.get(f"{address}/metrics")
        assert response.status_code == 500
        assert response.json() == {
            "error": "the service has failed; its log says why",
            "problems": [],
        }


def test_every_request_is_counted_and_the_time_of_those_that_were_answered(folder: Path) -> None:
    with serving(folder, max_body_mb=0.001, body_timeout_s=0.2) as (_, address):
        assert ask(address, {"histories": [[]]}).status_code == 200
        assert ask(address, {"histories": [["x" * 2000]]}).status_code == 413
        assert ask(address, {"histories": 5}).status_code == 422
        with raw_connection(address) as connection:
            connection.sendall(
                b"POST /v1/recommend HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n{"
            )
            assert connection.recv(4096).startswith(b"HTTP/1.1 408 ")
        assert httpx.post(f"{address}/nowhere", content=b"x" * 2000).status_code == 413
        text = httpx.get(f"{address}/metrics").text
        for status in (200, 408, 413, 422):
            assert f'skiprec_requests_total{{status="{status}"}} 1.0' in text
        assert "skiprec_request_seconds_count 1.0" in text
        assert "skiprec_keep" not in text, "depth does not follow the load here"


def test_half_a_body_and_silence(address: str) -> None:
    with raw_connection(address) as connection:
        head = b"POST /v1/recommend HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        connection.sendall(head + b'Content-Length: 100\r\n\r\n{"histories": ')
        began_s = time.monotonic()
        answer = connection.recv(4096).decode()
        assert 0.4 < time.monotonic() - began_s < 5
    assert answer.startswith("HTTP/1.1 408 ")
    assert "the body did not arrive within 0.5 s" in answer
    assert ask(address, {"histories": [[]]}).status_code == 200


@pytest.mark.parametrize("tells_length", [True, False])
def test_a_body_that_is_too_large(address: str, tells_length: bool) -> None:
    body = json.dumps({"histories": [["x" * 600_000]]}).encode()
    content = body if tells_length else iter([body[:1000], body[1000:]])
    headers = {"content-type": "application/json"}
    response = httpx.post(f"{address}/v1/recommend", content=content, headers=headers)
    assert response.status_code == 413
    (problem,) = response.json()["problems"]
    assert problem["expected"] == "at most 500,000 bytes"
    assert ask(address, {"histories": [[]]}).status_code == 200


def test_a_model_takes_over_from_another(folder: Path, tmp_path: Path) -> None:
    export_small_model(tmp_path / "other", kind="cost")
    with serving(folder) as (_, address):
        first = ask(address, {"histories": [[IDS[0]]]}).json()
        reload, body = f"{address}/v1/admin/reload", {"folder": str(tmp_path / "other")}
        for headers in ({}, {"Authorization": "Bearer of-another"}):
            refused = httpx.post(reload, json=body, headers=headers)
            assert refused.status_code == 401
        known = {"Authorization": f"Bearer {TOKEN}"}
        missing = httpx.post(reload, json={"folder": str(tmp_path / "none")}, headers=known)
        assert missing.status_code == 422
        assert "holds no exported model" in missing.json()["error"]
        assert ask(address, {"histories": [[IDS[0]]]}).json()["model"] == first["model"]
        taken = httpx.post(reload, json=body, headers=known)
        assert taken.status_code == 200, taken.text
        second = ask(address, {"histories": [[IDS[0]]]}).json()
        assert first["model"] != second["model"] == taken.json()["model"]
        wanted = expected(tmp_path / "other", [[IDS[0]]], k=10)
        assert second["results"][0]["items"] == wanted[0]["items"]


def test_a_service_with_a_promise_says_at_which_depth_it_answers(folder: Path) -> None:
    with serving(folder, Promise(latency_ms=200)) as (service, address):
        answer = ask(address, {"histories": [[IDS[0]]], "explain": True}).json()
        assert service.controller is not None
        assert answer["keep"] == service.controller.point.keep
        metrics = httpx.get(f"{address}/metrics").text
        assert f"skiprec_keep {answer['keep']}" in metrics
        assert "skiprec_expected_mrr_at_20 0." in metrics
        own = ask(address, {"histories": [[]], "keep": 0.25}).json()["keep"]
        below = [point.keep for point in service.model.now.recommender.spec.curve]
        assert own == max(keep for keep in below if keep <= 0.25), "the point that answered"
        assert ask(address, {"histories": [[]], "keep": 0}).json()["keep"] == min(below)


def test_a_promise_needs_a_policy(tmp_path: Path) -> None:
    export_small_model(tmp_path / "plain", kind="none")
    with (
        pytest.raises(
            ValueError, match="depth can only follow the load if the model has a learned"
        ),
        serving(tmp_path / "plain", Promise(latency_ms=5)),
    ):
        pass
    with serving(tmp_path / "plain") as (_, address):
        (problem,) = ask(address, {"histories": [[]], "keep": 0.5}).json()["problems"]
        assert problem["field"] == "keep"
        assert ask(address, {"histories": [[]], "keep": 1}).status_code == 200
