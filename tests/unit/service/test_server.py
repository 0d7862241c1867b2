"""The job that serves, as a process of its own: swaps, floods, odd clients, and its end."""

import json
import os
import runpy
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from tests.testkit.bad_input import FLAGS
from tests.testkit.exports import IDS, export_small_model
from tests.testkit.repository import ROOT
from tests.testkit.service import ask, raw_connection, served_by_the_job

BODY = {"histories": [[IDS[0], IDS[1]], []], "k": 5}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two models, "a" and "b"."""
    folder = tmp_path_factory.mktemp("models")
    export_small_model(folder / "a")
    export_small_model(folder / "b", kind="cost")
    return folder


def test_it_answers_a_command_line_and_ends_with_its_requests(models: Path) -> None:
    """After SIGTERM, requests that have arrived are answered and the exit code is 0."""
    with served_by_the_job("--model", str(models / "a")) as (process, address):
        assert ask(address, BODY).status_code == 200
        with raw_connection(address) as connection:
            body = json.dumps(BODY).encode()
            head = (
                "POST /v1/recommend HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
                f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
            )
            connection.sendall(head.encode() + body[:5])
            time.sleep(0.2)
            process.send_signal(signal.SIGTERM)
            time.sleep(0.2)
            connection.sendall(body[5:])
            answer = b"".join(iter(lambda: connection.recv(65536), b"")).decode()
        assert answer.startswith("HTTP/1.1 200 OK"), answer
        assert process.wait(20) == 0


def test_a_signal_as_soon_as_it_answers_ends_it(models: Path) -> None:
    with served_by_the_job("--model", str(models / "a")) as (process, _):
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0


def test_it_imports_neither_torch_nor_ray() -> None:
    program = (
        "import runpy, sys; sys.path.insert(0, 'jobs'); import serve_model; "
        "import skiprec.service.app; "
        "print([name for name in ('torch', 'ray', 'deepspeed') if name in sys.modules])"
    )
    command = [sys.executable, "-c", program]
    found = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


@pytest.mark.slow
def test_a_pointer_swaps_the_model_ten_times_and_no_request_is_lost(
    models: Path, tmp_path: Path
) -> None:
    pointer = tmp_path / "current"
    pointer.write_text(str(models / "a"))
    with served_by_the_job("--pointer", str(pointer)) as (_, address):
        names = [httpx.get(f"{address}/v1/model").json()["model"]]
        ends, statuses = threading.Event(), Counter[int]()
        answered_by: set[str] = set()

        def keep_asking(_: int) -> None:
            with httpx.Client(timeout=20) as client:
                while not ends.is_set():
                    response = client.post(f"{address}/v1/recommend", json=BODY)
                    statuses[response.status_code] += 1
                    answered_by.add(response.json()["model"])

        with ThreadPoolExecutor(3) as pool:
            asking = [pool.submit(keep_asking, number) for number in range(3)]
            for swap in range(10):
                draft = tmp_path / "draft"
                draft.write_text(str(models / "ba"[swap % 2]) + "\n")
                draft.replace(pointer)
                wait_for_another_model(address, names[-1], names)
            ends.set()
            for one in asking:
                one.result()
        assert len(names) == 11
        assert set(names) == answered_by
        assert len(answered_by) == 2
        assert statuses.keys() == {200}
        assert "skiprec_model_swaps_total 10.0" in httpx.get(f"{address}/metrics").text


def wait_for_another_model(address: str, name: str, names: list[str]) -> None:
    end = time.monotonic() + 20
    while (now := httpx.get(f"{address}/readyz").json()["model"]) == name:
        assert time.monotonic() < end
        time.sleep(0.05)
    names.append(now)


@pytest.mark.slow
def test_a_pointer_to_nothing_leaves_the_model_that_answers(models: Path, tmp_path: Path) -> None:
    pointer = tmp_path / "current"
    pointer.write_text(str(models / "a"))
    with served_by_the_job("--pointer", str(pointer)) as (_, address):
        before = ask(address, BODY).json()["model"]
        (tmp_path / "list").mkdir()
        (tmp_path / "list/manifest.json").write_text("[]")
        for text in ("", "nowhere", "list", "\0"):
            pointer.write_text(text)
            time.sleep(1.2)
            assert ask(address, BODY).json()["model"] == before
        pointer.unlink()
        time.sleep(1.2)
        assert ask(address, BODY).json()["model"] == before
        pointer.write_text(str(models / "b"))
        names = [before]
        wait_for_another_model(address, before, names)


def test_odd_clients_do_no_harm(models: Path) -> None:
    """Silent ones, ones that hang up at once, binary noise, and long histories."""
    with served_by_the_job("--model", str(models / "a"), "--body-timeout-s", "0.5") as (_, address):
        silent = [raw_connection(address) for _ in range(50)]
        for connection in silent[:25]:
            connection.sendall(
                b"POST /v1/recommend HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n{"
            )
        for _ in range(20):
            with raw_connection(address) as connection:
                connection.sendall(os.urandom(300))
        for _ in range(20):
            with raw_connection(address) as connection:
                connection.sendall(
                    b"POST /v1/recommend HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n{"
                )
        long = ask(address, {"histories": [[IDS[n % 30] for n in range(10_000)]] * 5})
        assert long.status_code == 200
        assert {result["read"] for result in long.json()["results"]} == {6}
        too_large = ask(address, {"histories": [["x" * 10_000_000]]})
        assert too_large.status_code == 413
        assert ask(address, BODY).status_code == 200
        for connection in silent:
            connection.close()


def test_a_flood_is_refused_and_the_service_stays(models: Path) -> None:
    options = ("--max-waiting", "8", "--max-histories", "8", "--deadline-ms", "60000")
    with served_by_the_job("--model", str(models / "a"), *options) as (_, address):
        large = {"histories": [[IDS[n % 30] for n in range(2000)]] * 8, "k": 30}

        def flood(_: int) -> Counter[int]:
            with httpx.Client(timeout=60) as client:
                url = f"{address}/v1/recommend"
                return Counter(client.post(url, json=large).status_code for _ in range(8))

        with ThreadPoolExecutor(16) as pool:
            statuses = sum(pool.map(flood, range(16)), Counter[int]())
        assert statuses.total() == 128
        assert statuses.keys() <= {200, 429}
        assert statuses[200] > 0
        assert statuses[429] > 0
        assert ask(address, BODY).status_code == 200


@pytest.mark.parametrize(("options", "message"), FLAGS)
def test_a_wrong_command_line(
    models: Path,
    options: list[str],
    message: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if "--pointer" in options:
        monkeypatch.setenv("SKIPREC_ADMIN_TOKEN", "a-token-of-the-tests")
    main = runpy.run_path(str(ROOT / "jobs/serve_model.py"), run_name="not_main")["main"]
    try:
        code = main([option.format(a=models / "a") for option in options])
    except SystemExit as error:  # of argparse
        code = error.code
    assert code == 2
    assert message in capsys.readouterr().err
