"""Wrong requests, each with the one error that a person needs: the field, and what was expected.

Beside this table, `test_server.py` has wrong flags and `tests/unit/cluster/test_recommend_users.py`
wrong files.
"""

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.testkit.exports import IDS, export_small_model
from tests.testkit.service import ask, serving

MAX_K, MAX_HISTORIES = 50, 20
ITEM = "an item id, as text or a whole number"
OK: dict[str, Any] = {"histories": [[IDS[0]]]}
# A body of JSON -> status, field, what was expected
BODIES: list[tuple[Any, int, str, str]] = [
    (True, 422, "body", "an object"),
    (7, 422, "body", "an object"),
    ("milk", 422, "body", "an object"),
    ([], 422, "body", "an object"),
    ([["milk"]], 422, "body", "an object"),
    ({}, 422, "histories", "a value"),
    ({"history": ["milk"]}, 422, "histories", "a value"),
    ({"k": 3}, 422, "histories", "a value"),
    ({"histories": None}, 422, "histories", "a valid array"),
    ({"histories": "milk"}, 422, "histories", "a valid array"),
    ({"histories": 5}, 422, "histories", "a valid array"),
    ({"histories": {}}, 422, "histories", "a valid array"),
    ({"histories": {"0": ["milk"]}}, 422, "histories", "a valid array"),
    ({"histories": True}, 422, "histories", "a valid array"),
    ({"histories": []}, 422, "histories", "at least 1 item"),
    ({"histories": ["milk"]}, 422, "histories.0", "a valid array"),
    ({"histories": ["milk", "bread"]}, 422, "histories.1", "a valid array"),
    ({"histories": [None]}, 422, "histories.0", "a valid array"),
    ({"histories": [1, 2, 3]}, 422, "histories.2", "a valid array"),
    ({"histories": [[], {}]}, 422, "histories.1", "a valid array"),
    ({"histories": [[], [], "x"]}, 422, "histories.2", "a valid array"),
    ({"histories": [[None]]}, 422, "histories.0.0", ITEM),
    ({"histories": [["milk", None]]}, 422, "histories.0.1", ITEM),
    ({"histories": [[True]]}, 422, "histories.0.0", ITEM),
    ({"histories": [[False, "milk"]]}, 422, "histories.0.0", ITEM),
    ({"histories": [[1.5]]}, 422, "histories.0.0", ITEM),
    ({"histories": [[-0.5]]}, 422, "histories.0.0", ITEM),
    ({"histories": [[["milk"]]]}, 422, "histories.0.0", ITEM),
    ({"histories": [[{"id": "milk"}]]}, 422, "histories.0.0", ITEM),
    ({"histories": [["a", "b", []]]}, 422, "histories.0.2", ITEM),
    ({"histories": [["a"], ["b", {}]]}, 422, "histories.1.1", ITEM),
    ({"histories": [["a"]] * (MAX_HISTORIES + 1)}, 422, "histories", "at most 20 histories"),
    (OK | {"k": None}, 422, "k", "valid integer"),
    (OK | {"k": "ten"}, 422, "k", "valid integer"),
    (OK | {"k": "10"}, 422, "k", "valid integer"),
    (OK | {"k": ""}, 422, "k", "valid integer"),
    (OK | {"k": True}, 422, "k", "valid integer"),
    (OK | {"k": 2.5}, 422, "k", "valid integer"),
    (OK | {"k": [3]}, 422, "k", "valid integer"),
    (OK | {"k": {}}, 422, "k", "valid integer"),
    (OK | {"k": 0}, 422, "k", "greater than or equal to 1"),
    (OK | {"k": -1}, 422, "k", "greater than or equal to 1"),
    (OK | {"k": -(2**70)}, 422, "k", "greater than or equal to 1"),
    (OK | {"k": MAX_K + 1}, 422, "k", "at most 50"),
    (OK | {"k": 10**6}, 422, "k", "at most 50"),
    (OK | {"k": 2**31}, 422, "k", "at most 50"),
    (OK | {"k": 2**63}, 422, "k", "at most 50"),
    (OK | {"k": 10**30}, 422, "k", "at most 50"),
    (OK | {"exclude_seen": None}, 422, "exclude_seen", "valid boolean"),
    (OK | {"exclude_seen": 1}, 422, "exclude_seen", "valid boolean"),
    (OK | {"exclude_seen": 0}, 422, "exclude_seen", "valid boolean"),
    (OK | {"exclude_seen": "true"}, 422, "exclude_seen", "valid boolean"),
    (OK | {"exclude_seen": "no"}, 422, "exclude_seen", "valid boolean"),
    (OK | {"exclude_seen": []}, 422, "exclude_seen", "valid boolean"),
    (OK | {"explain": None}, 422, "explain", "valid boolean"),
    (OK | {"explain": "yes"}, 422, "explain", "valid boolean"),
    (OK | {"explain": 1}, 422, "explain", "valid boolean"),
    (OK | {"explain": {}}, 422, "explain", "valid boolean"),
    (OK | {"allow": "milk"}, 422, "allow", "a valid array"),
    (OK | {"allow": 3}, 422, "allow", "a valid array"),
    (OK | {"allow": {}}, 422, "allow", "a valid array"),
    (OK | {"allow": True}, 422, "allow", "a valid array"),
    (OK | {"allow": [None]}, 422, "allow.0", ITEM),
    (OK | {"allow": [["milk"]]}, 422, "allow.0", ITEM),
    (OK | {"allow": ["milk", 1.5]}, 422, "allow.1", ITEM),
    (OK | {"deny": "milk"}, 422, "deny", "a valid array"),
    (OK | {"deny": 3}, 422, "deny", "a valid array"),
    (OK | {"deny": {}}, 422, "deny", "a valid array"),
    (OK | {"deny": [None]}, 422, "deny.0", ITEM),
    (OK | {"deny": [True]}, 422, "deny.0", ITEM),
    (OK | {"deny": ["milk", {}]}, 422, "deny.1", ITEM),
    (OK | {"keep": "half"}, 422, "keep", "valid number"),
    (OK | {"keep": ""}, 422, "keep", "valid number"),
    (OK | {"keep": []}, 422, "keep", "valid number"),
    (OK | {"keep": {}}, 422, "keep", "valid number"),
    (OK | {"keep": True}, 422, "keep", "valid number"),
    (OK | {"keep": "0.5"}, 422, "keep", "valid number"),
    (OK | {"keep": -0.1}, 422, "keep", "greater than or equal to 0"),
    (OK | {"keep": -1e300}, 422, "keep", "greater than or equal to 0"),
    (OK | {"keep": 1.1}, 422, "keep", "less than or equal to 1"),
    (OK | {"keep": 50}, 422, "keep", "less than or equal to 1"),
    (OK | {"keep": 10**400}, 422, "keep", "number"),
    (OK | {"user": "u1"}, 422, "user", "no such field"),
    (OK | {"K": 5}, 422, "K", "no such field"),
    (OK | {"top_k": 5}, 422, "top_k", "no such field"),
    (OK | {"": 5}, 422, "", "no such field"),
    (OK | {"histories ": [[]]}, 422, "histories ", "no such field"),
]
# A body of bytes -> status, field, what was expected
BYTES: list[tuple[bytes, int, str, str]] = [
    (b"", 422, "body", "JSON"),
    (b"null", 422, "body", "an object"),
    (b"{", 422, "body", "JSON"),
    (b'{"histories": [["a"]', 422, "body", "JSON"),
    (b'{"histories": [["a"]]}}', 422, "body", "JSON"),
    (b"{'histories': [['a']]}", 422, "body", "JSON"),
    (b'{"histories": [["a",]]}', 422, "body", "JSON"),
    (b"histories=a", 422, "body", "JSON"),
    (b"\x00\x01\x02", 422, "body", "JSON"),
    (b'{"histories": [["\xff\xfe"]]}', 422, "body", "JSON"),
    (b'{"histories": [["a"]], "keep": NaN}', 422, "keep", "finite number"),
    (b'{"histories": [["a"]], "keep": Infinity}', 422, "keep", "finite number"),
    (b'{"histories": [["a"]], "k": NaN}', 422, "k", "valid integer"),
    (b'{"histories": [[' + b"[" * 50_000, 422, "body", "JSON"),
    (b'{"histories": [[1' + b"0" * 5000 + b"]]}", 422, "body", "JSON"),
    (b'{"histories": [["\\ud800"]]}', 422, "body", "JSON"),
    (b"x" * 300_001, 413, "body", "at most 300,000 bytes"),
]


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("export") / "model"
    export_small_model(folder)
    limits = {"max_k": MAX_K, "max_histories": MAX_HISTORIES, "max_body_mb": 0.3}
    with serving(folder, **limits) as (_, address):
        yield address


def test_there_are_a_hundred() -> None:
    assert len(BODIES) + len(BYTES) >= 100


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
