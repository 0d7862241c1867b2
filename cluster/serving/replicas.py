"""The service on Ray Serve: the same application in several replicas, as many as the load needs."""

import logging
import signal
import threading
from dataclasses import dataclass, replace
from pathlib import Path

from fastapi import FastAPI
from ray import serve

from cluster.machine.session import ray_session
from skiprec.service.app import create_app
from skiprec.service.server import ServerOptions, make_service

APPLICATION = "skiprec"


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


def serve_on_ray(options: ServerOptions, replicas: Replicas) -> None:
    """Serves on the cluster at RAY_ADDRESS, or on a local Ray, until SIGTERM or Ctrl-C.

    Each machine of the cluster has a proxy that listens on `options.host` and `options.port`. The
    queue, its limits and the depth that follows the load are those of each replica.

    Raises:
        ValueError: the model cannot be read, or an option has no meaning here.
    """
    if options.admin_token is not None:
        raise ValueError("--admin would swap the model of one replica; use --pointer with --ray")
    options = _with_absolute_paths(options)
    make_service(options).close()  # an error is better here than in a replica

    def build_app() -> FastAPI:
        logging.getLogger("skiprec").setLevel(logging.INFO)
        return create_app(make_service(options))

    stop = threading.Event()
    with ray_session():
        for number in (signal.SIGTERM, signal.SIGINT):  # Ray has set handlers of its own
            signal.signal(number, lambda *_: stop.set())
        serve.start(http_options={"host": options.host, "port": options.port})
        # A replica's own queue refuses what is too much, with 429, so Serve holds nothing back.
        as_deployment = serve.deployment(
            name="service",
            ray_actor_options={"num_cpus": options.threads},
            max_ongoing_requests=options.limits.max_waiting + options.limits.batch_rows,
            autoscaling_config={
                "min_replicas": replicas.at_least,
                "max_replicas": replicas.at_most,
                "target_ongoing_requests": replicas.busy,
            },
        )
        try:
            application = as_deployment(serve.ingress(build_app)()).bind()
            serve.run(application, name=APPLICATION, route_prefix="/")
            print(
                f"{options.model or options.pointer} answers at "
                f"http://{options.host}:{options.port}",
                flush=True,
            )
            stop.wait()
        finally:
            serve.shutdown()  # type: ignore[no-untyped-call]


def _with_absolute_paths(options: ServerOptions) -> ServerOptions:
    def absolute(path: Path | None) -> Path | None:
        return None if path is None else path.resolve()

    return replace(options, model=absolute(options.model), pointer=absolute(options.pointer))
