"""Runs the application in one process with uvicorn."""

import logging
import signal
import socket
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any, cast

import uvicorn
from fastapi import FastAPI

from skiprec.inference.recommender import Executor
from skiprec.service.app import create_app
from skiprec.service.connections import Connection
from skiprec.service.control import Promise
from skiprec.service.limits import Limits
from skiprec.service.service import Service
from skiprec.service.serving_model import ServingModel, load_model, read_pointer

DRAIN_S = 30
BACKLOG = 2048


@dataclass(frozen=True)
class ServerOptions:
    """How a model is served.

    Args:
        model: folder of the exported model; None with a pointer.
        pointer: file that names the folder of the model, followed while the service runs.
        threads: of the executor.
        promise: see `Service`.
        admin_token: allows the route that swaps the model; None: there is none.
    """

    model: Path | None
    pointer: Path | None = None
    host: str = "127.0.0.1"
    port: int = 8080
    threads: int = 1
    executor: Executor | None = None
    admin_token: str | None = None
    limits: Limits = field(default_factory=Limits)
    promise: Promise | None = None


def make_service(options: ServerOptions) -> Service:
    """The service with its model, which has passed its self-test.

    Raises:
        ValueError: neither a model nor a pointer, or both, or one that cannot be read; no thread.
    """
    if (options.model is None) == (options.pointer is None):
        raise ValueError(
            "expected either --model FOLDER or --pointer FILE, a text file that names the folder"
        )
    if options.threads < 1:
        raise ValueError(f"expected one thread or more, got threads={options.threads}")
    if options.pointer is not None and options.admin_token is not None:
        raise ValueError(
            "--admin swaps the model by a call and --pointer by a file that would undo it within a "
            "second; use one of them"
        )
    folder = options.model if options.pointer is None else read_pointer(options.pointer)
    assert folder is not None
    load = partial(load_model, threads=options.threads, executor=options.executor)
    service = Service(ServingModel(load, folder), options.limits, options.promise)
    if options.pointer is not None:
        service.follow(options.pointer)
    return service


def serve(options: ServerOptions) -> None:
    """Serves until SIGTERM or Ctrl-C, then answers what has arrived.

    Raises:
        ValueError: the model cannot be read, or the port cannot be had.
    """
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    service = make_service(options)
    listening = _listen(options.host, options.port)
    server = uvicorn.Server(server_config(create_app(service, options.admin_token), service.limits))

    def stop(number: int, frame: FrameType | None) -> None:
        server.should_exit = True

    # Until uvicorn has handlers of its own, and once more after its end, because it raises the
    # signal that has ended it anew; a service that has drained ends well.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)
    host, port = listening.getsockname()[:2]
    print(f"{service.model.now.name} answers at http://{host}:{port}", flush=True)
    server.run(sockets=[listening])


def server_config(app: FastAPI, limits: Limits) -> uvicorn.Config:
    """How uvicorn runs the application."""
    return uvicorn.Config(
        app,
        http=cast(Any, partial(Connection, limits)),
        access_log=False,
        log_config=None,
        timeout_graceful_shutdown=DRAIN_S,
    )


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.socket(family)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((host, port))
        listening.listen(BACKLOG)
    except (OSError, OverflowError) as error:
        listening.close()
        raise ValueError(f"cannot listen on {host}:{port}: {error}") from None
    return listening
