"""The service on Ray Serve: the same application in several replicas, as many as the load needs."""

import signal
import socket
import threading
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from fastapi import FastAPI
from pydantic import BaseModel, ConfigDict, ValidationError, create_model
from ray import serve

from cluster.machine.session import is_own_ray, ray_session
from skiprec.inference.recommender import Executor
from skiprec.service.app import create_app
from skiprec.service.control import Promise
from skiprec.service.limits import Limits
from skiprec.service.server import ServerOptions, make_service

APPLICATION, SERVICE = "skiprec", "service"


@dataclass(frozen=True)
class Replicas:
    """How many replicas there are.

    Args:
        at_most: replicas are added while a replica works on more than `busy` requests at once.
    """

    at_least: int = 1
    at_most: int = 1
    busy: int = 8

    def __post_init__(self) -> None:
        if not 1 <= self.at_least <= self.at_most:
            raise ValueError(
                f"expected 1 <= min-replicas <= max-replicas, got {self.at_least} and "
                f"{self.at_most}"
            )


class _Args(BaseModel):
    model_config = ConfigDict(extra="forbid")

    model: Path | None = None
    pointer: Path | None = None
    executor: Executor | None = None
    threads: int = 1
    min_replicas: int = 1
    max_replicas: int = 1
    latency_slo_ms: float | None = None
    slo_quantile: float = 0.99
    min_mrr: float | None = None


LIMITS: dict[str, Any] = {
    limit.name: (type(limit.default), limit.default) for limit in fields(Limits)
}
ManifestArgs: Any = create_model("ManifestArgs", __base__=_Args, **LIMITS)


def application(options: ServerOptions, replicas: Replicas) -> serve.Application:
    """The application of Ray Serve.

    Raises:
        ValueError: the model cannot be read, or an option has no meaning here.
    """
    if options.port == 0:
        raise ValueError("--port 0 takes any free port, which Ray Serve cannot tell; name a port")
    if options.admin_token is not None:
        raise ValueError("--admin would swap the model of one replica; use --pointer with --ray")
    options = _with_absolute_paths(options)
    make_service(options).close()  # an error is better here than in a replica

    def build_app() -> FastAPI:
        return create_app(make_service(options))

    # A replica's own queue refuses what is too much, with 429, so Serve holds nothing back.
    as_deployment = serve.deployment(
        name=SERVICE,
        ray_actor_options={"num_cpus": options.threads},
        max_ongoing_requests=options.limits.max_waiting + options.limits.batch_rows,
        autoscaling_config={
            "min_replicas": replicas.at_least,
            "max_replicas": replicas.at_most,
            "target_ongoing_requests": replicas.busy,
        },
    )
    return as_deployment(serve.ingress(build_app)()).bind()


def from_manifest(args: dict[str, Any]) -> serve.Application:
    """The application that a configuration of Ray Serve asks for, as in rayservice.yaml.

    Args:
        args: model or pointer; and, each optional, executor, threads, min_replicas, max_replicas,
            latency_slo_ms, slo_quantile, min_mrr and the fields of `Limits`.

    Raises:
        ValueError: an argument is unknown or wrong.
    """
    try:
        asked = ManifestArgs.model_validate(args)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        if first["type"] == "extra_forbidden":
            raise ValueError(f"unknown argument {where!r}; see docs/serving.md") from None
        raise ValueError(
            f"args.{where} is {first['input']!r}: {first['msg']}; see docs/serving.md"
        ) from None
    promise = None
    if asked.latency_slo_ms is not None:
        promise = Promise(asked.latency_slo_ms, asked.slo_quantile, asked.min_mrr)
    elif asked.model_fields_set & {"slo_quantile", "min_mrr"}:
        raise ValueError("args.slo_quantile and args.min_mrr need args.latency_slo_ms")
    limits = {name: getattr(asked, name) for name in LIMITS}
    options = ServerOptions(
        model=asked.model,
        pointer=asked.pointer,
        threads=asked.threads,
        executor=asked.executor,
        limits=Limits(**limits),
        promise=promise,
    )
    return application(options, Replicas(asked.min_replicas, asked.max_replicas))


def serve_on_ray(options: ServerOptions, replicas: Replicas) -> None:
    """Serves on the cluster at RAY_ADDRESS, or on a local Ray, until SIGTERM or Ctrl-C.

    Each machine of the cluster has a proxy that listens on `options.host` and `options.port`. The
    queue, its limits and the depth that follows the load are those of each replica.

    Raises:
        ValueError: see `application`.
    """
    made = application(options, replicas)
    stop = threading.Event()
    with ray_session():
        serve.start(http_options={"host": options.host, "port": options.port})
        if APPLICATION in serve.status().applications:
            raise ValueError(
                f"this cluster already serves an application {APPLICATION!r}; stop the other "
                "command first, or swap its model with --pointer"
            )
        try:
            serve.run(made, name=APPLICATION, route_prefix="/")
            _refuse_other_address(options)
            for number in (signal.SIGTERM, signal.SIGINT):  # Ray has set handlers of its own
                signal.signal(number, lambda *_: stop.set())
            print(
                f"{options.model or options.pointer} answers at "
                f"http://{options.host}:{options.port}",
                flush=True,
            )
            stop.wait()
        finally:
            if is_own_ray():
                serve.shutdown()  # type: ignore[no-untyped-call]
            else:
                serve.delete(APPLICATION)  # others may use Serve on this cluster


def _refuse_other_address(options: ServerOptions) -> None:
    """Raises ValueError if a Serve that was there before listens elsewhere."""
    host = "127.0.0.1" if options.host in ("0.0.0.0", "::") else options.host
    try:
        socket.create_connection((host, options.port), timeout=10).close()
    except OSError as error:
        raise ValueError(
            f"nobody answers at {options.host}:{options.port} ({error}): Serve runs on this "
            "cluster with an address of its own, which the first one to start it has chosen; give "
            "that as --host and --port"
        ) from None


def _with_absolute_paths(options: ServerOptions) -> ServerOptions:
    def absolute(path: Path | None) -> Path | None:
        return None if path is None else path.absolute()

    return replace(options, model=absolute(options.model), pointer=absolute(options.pointer))
