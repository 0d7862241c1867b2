"""The service on Ray Serve: the same application in several replicas, as many as the load needs."""

import signal
import threading
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from fastapi import FastAPI
from ray import serve

from cluster.machine.session import is_own_ray, ray_session
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


def application(options: ServerOptions, replicas: Replicas) -> serve.Application:
    """The application of Ray Serve.

    Raises:
        ValueError: the model cannot be read, or an option has no meaning here.
    """
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
        args: model or pointer; and, each optional, threads, min_replicas, max_replicas,
            latency_slo_ms and the fields of `Limits`.

    Raises:
        ValueError: an argument is unknown or wrong.
    """
    left = dict(args)
    model, pointer = left.pop("model", None), left.pop("pointer", None)
    slo_ms = left.pop("latency_slo_ms", None)
    replicas = Replicas(left.pop("min_replicas", 1), left.pop("max_replicas", 1))
    threads = left.pop("threads", 1)
    limits = {limit.name: left.pop(limit.name) for limit in fields(Limits) if limit.name in left}
    if left:
        raise ValueError(f"unknown argument {next(iter(left))!r}; see docs/serving.md")
    options = ServerOptions(
        model=model and Path(model),
        pointer=pointer and Path(pointer),
        threads=threads,
        limits=Limits(**limits),
        promise=None if slo_ms is None else Promise(slo_ms),
    )
    return application(options, replicas)


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
        for number in (signal.SIGTERM, signal.SIGINT):  # Ray has set handlers of its own
            signal.signal(number, lambda *_: stop.set())
        serve.start(http_options={"host": options.host, "port": options.port})
        try:
            serve.run(made, name=APPLICATION, route_prefix="/")
            print(
                f"{options.model or options.pointer} answers at "
                f"http://{options.host}:{options.port}",
                flush=True,
            )
            stop.wait()
        finally:
            serve.delete(APPLICATION)  # others may use Serve on this cluster
            if is_own_ray():
                serve.shutdown()  # type: ignore[no-untyped-call]


def _with_absolute_paths(options: ServerOptions) -> ServerOptions:
    def absolute(path: Path | None) -> Path | None:
        return None if path is None else path.absolute()

    return replace(options, model=absolute(options.model), pointer=absolute(options.pointer))
