"""Serves an exported model over HTTP (docs/serving.md).

    python jobs/serve_model.py --model runs/quickstart/export
    curl -s localhost:8080/v1/recommend -H 'content-type: application/json' \\
      -d '{"histories": [["868764", "883003"]], "k": 5}'

It runs until SIGTERM or Ctrl-C, then answers what has arrived. It needs no torch.
"""

import argparse
import os
import sys
from dataclasses import fields
from pathlib import Path

from skiprec.service.control import Promise
from skiprec.service.limits import Limits
from skiprec.service.server import ServerOptions, serve

LIMITS = {
    "max_body_mb": "largest body of a request, in MB",
    "max_histories": "most histories in a request",
    "max_k": "most items in a list",
    "max_waiting": "most histories that may wait; further requests get 429",
    "batch_rows": "most histories in one call of the executor",
    "deadline_ms": "a request that has waited this long gets 504 and is not computed",
    "body_timeout_s": "longest time that a head or a body may take to arrive, in seconds",
    "max_items": "most items in an answer, over all of its lists",
    "max_waiting_mb": "bodies that are held at once, in MB; further requests get 429",
    "max_connections": "most connections; a further one gets 503",
}
TOKEN = "SKIPREC_ADMIN_TOKEN"


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--model",
        type=Path,
        metavar="FOLDER",
        help="folder of the exported model (required without --pointer)",
    )
    parser.add_argument(
        "--pointer",
        type=Path,
        metavar="FILE",
        help="text file that names the folder of the model; when it names another one, that one "
        "takes over (required without --model)",
    )
    parser.add_argument(
        "--host",
        default="127.0.0.1",
        help="address to listen on, 0.0.0.0 for all of them (default: 127.0.0.1)",
    )
    parser.add_argument(
        "--port",
        type=int,
        default=8080,
        help="port to listen on; 0 takes a free one (default: 8080)",
    )
    parser.add_argument(
        "--threads", type=int, default=1, help="threads of a call of the executor (default: 1)"
    )
    parser.add_argument(
        "--executor",
        choices=["native", "native_bf16", "numpy"],
        help="what computes the answers (default: the native library, else NumPy)",
    )
    parser.add_argument(
        "--admin",
        action="store_true",
        help=f"allow POST /v1/admin/reload to those who know the token in the variable {TOKEN} "
        "(default: no such route)",
    )
    parser.add_argument(
        "--ray",
        action="store_true",
        help="serve on Ray Serve, on the cluster at RAY_ADDRESS or a local Ray (default: in this "
        "process)",
    )
    parser.add_argument(
        "--min-replicas", type=int, default=1, help="fewest replicas, with --ray (default: 1)"
    )
    parser.add_argument(
        "--max-replicas", type=int, default=1, help="most replicas, with --ray (default: 1)"
    )
    parser.add_argument(
        "--latency-slo-ms",
        type=float,
        metavar="MS",
        help="latency that the service keeps by giving up depth under load (default: depth stays "
        "as the model was trained)",
    )
    parser.add_argument(
        "--slo-quantile",
        type=float,
        help="share of the requests that are answered within it (default: 0.99)",
    )
    parser.add_argument(
        "--min-mrr",
        type=float,
        metavar="MRR@20",
        help="accuracy on validation rows below which depth never goes (default: none)",
    )
    for limit in fields(Limits):
        parser.add_argument(
            f"--{limit.name.replace('_', '-')}",
            type=type(limit.default),
            default=limit.default,
            help=f"{LIMITS[limit.name]} (default: {limit.default})",
        )
    arguments = parser.parse_args(argv)
    try:
        options = ServerOptions(
            arguments.model,
            arguments.pointer,
            arguments.host,
            arguments.port,
            arguments.threads,
            arguments.executor,
            _token() if arguments.admin else None,
            Limits(**{limit.name: getattr(arguments, limit.name) for limit in fields(Limits)}),
            _promise(arguments),
        )
        if arguments.ray:
            _serve_on_ray(options, arguments.min_replicas, arguments.max_replicas)
        elif (arguments.min_replicas, arguments.max_replicas) != (1, 1):
            raise ValueError("--min-replicas and --max-replicas have no effect without --ray")
        else:
            serve(options)
    except (ValueError, FileNotFoundError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:  # while it starts
        return 130
    return 0


def _serve_on_ray(options: ServerOptions, at_least: int, at_most: int) -> None:
    from cluster.serving.replicas import Replicas, serve_on_ray  # Ray is needed here alone

    serve_on_ray(options, Replicas(at_least, at_most))


def _promise(arguments: argparse.Namespace) -> Promise | None:
    if arguments.latency_slo_ms is None:
        for option in ("slo_quantile", "min_mrr"):
            if getattr(arguments, option) is not None:
                name = f"--{option.replace('_', '-')}"
                raise ValueError(f"{name} has no effect without --latency-slo-ms; remove it")
        return None
    quantile = 0.99 if arguments.slo_quantile is None else arguments.slo_quantile
    return Promise(arguments.latency_slo_ms, quantile, arguments.min_mrr)


def _token() -> str:
    token = os.environ.get(TOKEN, "")
    if len(token) < 16:
        raise ValueError(
            f"--admin needs a token of 16 characters or more in the variable {TOKEN}; got "
            f"{len(token)}"
        )
    return token


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
