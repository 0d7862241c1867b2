"""A service on a free port: in a thread of the test, or as the job that people start."""

import contextlib
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import uvicorn

from skiprec.service.app import create_app
from skiprec.service.control import Promise
from skiprec.service.limits import Limits
from skiprec.service.server import ServerOptions, make_service, server_config
from skiprec.service.service import Service
from tests.testkit.repository import ROOT

TOKEN = "a-token-of-the-tests"


@contextlib.contextmanager
def serving(
    model: Path, promise: Promise | None = None, **limits: Any
) -> Iterator[tuple[Service, str]]:
    """A service in this process, and its address."""
    service = make_service(ServerOptions(model, limits=Limits(**limits), promise=promise))
    listening = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(server_config(create_app(service, TOKEN), service.limits))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    thread.start()
    try:
        yield service, "http://{}:{}".format(*listening.getsockname()[:2])
    finally:
        server.should_exit = True
        thread.join(20)
        assert not thread.is_alive()


@contextlib.contextmanager
def served_by_the_job(*options: str) -> Iterator[tuple["subprocess.Popen[str]", str]]:
    """`jobs/serve_model.py` on a free port, and its address; killed at the end if it still runs."""
    port = () if "--port" in options else ("--port", "0")
    command = [sys.executable, "jobs/serve_model.py", *port, *options]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        line = process.stdout.readline()
        assert " answers at http://" in line, line
        yield process, line.split(" answers at ")[1].strip()
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
    return port


def ask(address: str, body: Any, timeout_s: float = 20) -> httpx.Response:
    """What the service answers to a body of JSON."""
    return httpx.post(f"{address}/v1/recommend", json=body, timeout=timeout_s)


def raw_connection(address: str) -> socket.socket:
    """A connection of bytes, for what no client library would send."""
    host, port = address.removeprefix("http://").split(":")
    return socket.create_connection((host, int(port)), timeout=20)
