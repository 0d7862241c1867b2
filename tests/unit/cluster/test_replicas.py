"""The arguments of a manifest of Ray Serve reach the service, and wrong ones are refused."""

from pathlib import Path
from typing import Any

import pytest

from cluster.serving import replicas
from cluster.serving.replicas import Replicas, from_manifest
from skiprec.service.control import Promise
from skiprec.service.limits import Limits
from skiprec.service.server import ServerOptions


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[ServerOptions, Replicas]]:
    found: list[tuple[ServerOptions, Replicas]] = []
    monkeypatch.setattr(replicas, "application", lambda *given: found.append(given))
    return found


def test_every_argument_arrives(asked: list[tuple[ServerOptions, Replicas]]) -> None:
    arguments: dict[str, Any] = {"pointer": "/shared/current", "threads": 2, "executor": "numpy"}
    arguments |= {"min_replicas": 2, "max_replicas": 3, "max_k": 50, "deadline_ms": 250}
    from_manifest(arguments | {"latency_slo_ms": 50, "slo_quantile": 0.9, "min_mrr": 0.1})
    from_manifest({"model": "/shared/model"})
    (full, how_many), (least, one) = asked
    assert full == ServerOptions(
        model=None,
        pointer=Path("/shared/current"),
        threads=2,
        executor="numpy",
        limits=Limits(max_k=50, deadline_ms=250.0),
        promise=Promise(50.0, 0.9, 0.1),
    )
    assert how_many == Replicas(2, 3)
    assert (least, one) == (ServerOptions(Path("/shared/model")), Replicas())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"modle": "x"}, r"unknown argument 'modle'"),
        ({"model": "x", "threads": "two"}, r"args.threads is 'two': .*integer"),
        ({"model": "x", "executor": "gpu"}, r"args.executor is 'gpu': .*'native'"),
        ({"model": "x", "min_mrr": 0.1}, r"need args.latency_slo_ms"),
        ({"model": "x", "max_k": 0}, r"max_k is 0; expected a number above 0"),
        ({"model": "x", "min_replicas": 2}, r"got 2 and 1"),
    ],
)
def test_wrong_arguments(
    asked: list[tuple[ServerOptions, Replicas]], arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        from_manifest(arguments)
    assert not asked
