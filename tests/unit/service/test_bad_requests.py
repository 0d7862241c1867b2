"""Wrong requests, each with the one error that a person needs: the field, and what was expected."""

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.testkit.bad_input import BODIES, BYTES, FILES, FLAGS, MAX_HISTORIES, MAX_K, OK
from tests.testkit.exports import export_small_model
from tests.testkit.service import ask, serving


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("export") / "model"
    export_small_model(folder)
    limits = {"max_k": MAX_K, "max_histories": MAX_HISTORIES, "max_body_mb": 0.3}
    with serving(folder, **limits) as (_, address):
        yield address


def test_there_are_more_than_a_hundred() -> None:
    assert len(BODIES) + len(BYTES) >= 100
    assert len(FLAGS) + len(FILES) >= 40


def assert_refused(response: httpx.Response, status: int, field: str, expected: str) -> None:
    answer = response.json()
    assert response.status_code == status, answer
    assert answer.keys() == {"error", "problems"}
    problems = {problem["field"]: problem["expected"] for problem in answer["problems"]}
    assert field in problems, answer
    assert expected in problems[field], answer
    assert all(len(problem["found"]) < 100 for problem in answer["problems"])
    assert len(response.content) < 5000


@pytest.mark.parametrize(("body", "status", "field", "expected"), BODIES)
def test_a_wrong_value(address: str, body: Any, status: int, field: str, expected: str) -> None:
    assert_refused(ask(address, body), status, field, expected)


@pytest.mark.parametrize(("body", "status", "field", "expected"), BYTES)
def test_what_is_no_json(address: str, body: bytes, status: int, field: str, expected: str) -> None:
    headers = {"content-type": "application/json"}
    response = httpx.post(f"{address}/v1/recommend", content=body, headers=headers)
    assert_refused(response, status, field, expected)


def test_the_body_is_read_as_json_whatever_its_type_is_called(address: str) -> None:
    content = json.dumps(OK).encode()
    for headers in ({}, {"content-type": "text/plain"}, {"content-type": "application/json"}):
        response = httpx.post(f"{address}/v1/recommend", content=content, headers=headers)
        assert response.status_code == 200, response.text


@pytest.mark.parametrize(
    ("method", "path", "status", "text"),
    [
        ("GET", "/v1/recommend", 405, "Method Not Allowed: GET /v1/recommend; there are: GET /"),
        ("PUT", "/v1/recommend", 405, "Method Not Allowed: PUT"),
        ("DELETE", "/v1/model", 405, "Method Not Allowed: DELETE"),
        ("POST", "/healthz", 405, "Method Not Allowed: POST"),
        ("GET", "/v2/recommend", 404, "Not Found: GET /v2/recommend; there are: GET /, /healthz"),
        ("POST", "/recommend", 404, "Not Found: POST /recommend; there are"),
        ("GET", "/v1/recommend/", 404, "Not Found"),
        ("GET", "/../../etc/passwd", 404, "Not Found"),
        ("GET", "/static-offline-docs/../../app.py", 404, "Not Found"),
        ("GET", "/%00", 404, "Not Found"),
    ],
)
def test_a_wrong_route(address: str, method: str, path: str, status: int, text: str) -> None:
    response = httpx.request(method, f"{address}{path}")
    assert response.status_code == status
    assert response.json()["error"].startswith(text)


def test_many_wrong_items_cost_no_more_than_one(address: str) -> None:
    body = b'{"histories": [[' + b",".join([b"null"] * 50_000) + b"]]}"
    began_s = time.monotonic()
    response = httpx.post(f"{address}/v1/recommend", content=body)
    assert response.status_code == 422
    assert len(response.json()["problems"]) == 1
    assert time.monotonic() - began_s < 1


def test_in_json_an_integer_may_have_a_point(address: str) -> None:
    answer = ask(address, {"histories": [[2.0, 1e300]], "k": 2.0}).json()
    (result,) = answer["results"]
    assert len(result["items"]) == 2
    assert result["unknown"] == [str(int(1e300))]
    assert result["read"] == 1  # item "2"


def test_nothing_of_them_stays(address: str, tmp_path: Path) -> None:
    """After all of them the service answers as before."""
    response = ask(address, OK)
    assert response.status_code == 200
    assert len(response.json()["results"][0]["items"]) == 10
    waiting = httpx.get(f"{address}/metrics").text
    assert "skiprec_waiting_histories 0.0" in waiting


def test_an_answer_has_a_bounded_number_of_items(tmp_path: Path) -> None:
    export_small_model(tmp_path / "model")
    with serving(tmp_path / "model", max_items=12) as (_, address):
        assert ask(address, {"histories": [["x"]] * 3, "k": 4}).status_code == 200
        refused = ask(address, {"histories": [["x"]] * 3, "k": 5})
        assert_refused(refused, 422, "k", "at most 12 items in an answer")
