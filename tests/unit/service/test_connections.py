"""What a connection may do before a request has begun, and how it ends."""

import json
import signal
import socket
import time
from pathlib import Path

import pytest

from skiprec.service.connections import MAX_HEAD_BYTES
from tests.testkit.exports import IDS, export_small_model
from tests.testkit.service import ask, raw_connection, served_by_the_job, serving

BODY = json.dumps({"histories": [[IDS[0]]], "k": 3}).encode()
REQUEST = (
    b"POST /v1/recommend HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(BODY)
) + BODY
BEGUN = b"POST /v1/recommend HTTP/1.1\r\nHost: x\r\n"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("export") / "model"
    export_small_model(folder)
    return folder


def rest_of(connection: socket.socket) -> str:
    """All that comes until the other side closes the connection."""
    parts = []
    try:
        while part := connection.recv(65536):
            parts.append(part)
    except ConnectionResetError:
        pass
    return b"".join(parts).decode()


def is_answered(connection: socket.socket) -> bool:
    """Reads one answer of JSON, and whether its status is 200."""
    answer = b""
    while not answer.endswith(b"}]}"):
        part = connection.recv(65536)
        if not part:
            break
        answer += part
    return answer.startswith(b"HTTP/1.1 200 OK")


def send_until_refused(connection: socket.socket, part: bytes, most: int) -> tuple[int, str]:
    """How many bytes the other side took, at most `most`, and its answer."""
    sent = 0
    try:
        while sent < most:
            sent += connection.send(part)
    except (BrokenPipeError, ConnectionResetError):
        return sent, ""
    return sent, rest_of(connection)


@pytest.mark.parametrize(
    "endless", [b"x-n: " + b"a" * 1000 + b"\r\n", b"a" * 1000], ids=["many headers", "one header"]
)
def test_a_head_without_end_is_refused(folder: Path, endless: bytes) -> None:
    with serving(folder) as (_, address), raw_connection(address) as connection:
        connection.sendall(BEGUN + b"x-n: ")
        # What lies in the buffers of both sides is not in the service.
        sent, _ = send_until_refused(connection, endless, 100_000_000)
        assert sent < 20_000_000
        with raw_connection(address) as other:
            other.sendall(BEGUN + b"x-n: " + b"a" * (MAX_HEAD_BYTES + 1))
            answer = rest_of(other)
            assert "431" in answer.splitlines()[0] or not answer
        assert ask(address, json.loads(BODY)).status_code == 200


def test_a_large_head_within_the_limit_is_read(folder: Path) -> None:
    with serving(folder) as (_, address), raw_connection(address) as connection:
        head = REQUEST.replace(
            b"\r\n\r\n", b"\r\nx-n: " + b"a" * (MAX_HEAD_BYTES - 500) + b"\r\n\r\n"
        )
        connection.sendall(head)
        assert is_answered(connection)
        for _ in range(10):  # the count begins anew
            connection.sendall(REQUEST)
            assert is_answered(connection)


def test_trailers_without_end_are_refused(folder: Path) -> None:
    with (
        serving(folder, max_body_mb=0.1) as (_, address),
        raw_connection(address) as connection,
    ):
        connection.sendall(BEGUN + b"Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n")
        sent, _ = send_until_refused(connection, b"x-n: " + b"a" * 1000 + b"\r\n", 100_000_000)
        assert sent < 20_000_000
        assert ask(address, json.loads(BODY)).status_code == 200


@pytest.mark.parametrize(
    "part", [b"", BEGUN, b"\r\n"], ids=["silence", "half a head", "a blank line"]
)
def test_silence_before_a_request_ends_the_connection(folder: Path, part: bytes) -> None:
    with serving(folder, body_timeout_s=0.5) as (_, address), raw_connection(address) as connection:
        connection.sendall(part)
        started = time.monotonic()
        answer = rest_of(connection)
        assert 0.3 < time.monotonic() - started < 5
        assert answer.startswith("HTTP/1.1 408")
        assert "did not arrive within 0.5 s" in json.loads(answer.split("\r\n\r\n")[1])["error"]


def test_half_a_second_head_ends_a_connection_that_was_used(folder: Path) -> None:
    with serving(folder, body_timeout_s=0.5) as (_, address), raw_connection(address) as connection:
        connection.sendall(REQUEST)
        assert is_answered(connection)
        time.sleep(0.8)  # idle, without a head begun, it stays open
        connection.sendall(REQUEST)
        assert is_answered(connection)
        connection.sendall(BEGUN)
        assert rest_of(connection).startswith("HTTP/1.1 408")


def test_more_connections_than_allowed_get_503(folder: Path) -> None:
    with serving(folder, max_connections=5) as (_, address):
        held = [raw_connection(address) for _ in range(5)]
        for connection in held:
            connection.sendall(REQUEST)
            assert is_answered(connection)
        with raw_connection(address) as one_more:
            answer = rest_of(one_more)
        assert answer.startswith("HTTP/1.1 503")
        assert "5 connections" in json.loads(answer.split("\r\n\r\n")[1])["error"]
        held.pop().close()
        time.sleep(0.2)
        assert ask(address, json.loads(BODY)).status_code == 200
        for connection in held:
            connection.close()


def test_bodies_that_are_held_at_once_are_bounded(folder: Path) -> None:
    """Many clients that each send most of a body that is allowed, and then wait."""
    limits = {"max_body_mb": 0.1, "max_waiting_mb": 0.25, "body_timeout_s": 2}
    with serving(folder, **limits) as (_, address):
        most = BEGUN + b"Content-Length: 100000\r\n\r\n" + b"[" * 90_000
        held = [raw_connection(address) for _ in range(4)]
        for connection in held:
            connection.sendall(most)
            time.sleep(0.1)
        answers = [rest_of(connection).splitlines()[0] for connection in held]
        # Two are held until they are too slow; the third is one too many, and makes room again.
        assert (
            sorted(answers)
            == ["HTTP/1.1 408 Request Timeout"] * 2 + ["HTTP/1.1 429 Too Many Requests"] * 2
        )
        for _ in range(30):  # what was held is let go, or these would not all be answered
            padded = {"histories": [[IDS[0]]], "deny": ["x" * 20_000]}
            assert ask(address, padded).status_code == 200


def test_a_request_that_is_on_its_way_at_the_end_is_answered(folder: Path) -> None:
    """A connection that is idle at SIGTERM takes one more request and says that it was the last."""
    with served_by_the_job("--model", str(folder)) as (process, address):
        with raw_connection(address) as connection:
            connection.sendall(REQUEST)
            assert is_answered(connection)
            process.send_signal(signal.SIGTERM)
            time.sleep(0.4)
            connection.sendall(REQUEST)
            answer = rest_of(connection)
        assert answer.startswith("HTTP/1.1 200 OK")
        assert "connection: close" in answer.lower()
        assert process.wait(20) == 0


def test_what_is_no_http_gets_an_error_as_json(folder: Path) -> None:
    with serving(folder) as (_, address), raw_connection(address) as connection:
        connection.sendall(b"\x16\x03\x01 this is no request\r\n\r\n")
        answer = rest_of(connection)
        assert answer.startswith("HTTP/1.1 400")
        assert "Invalid HTTP" in json.loads(answer.split("\r\n\r\n")[1])["error"]
