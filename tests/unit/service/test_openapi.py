"""Everything that the OpenAPI of the service allows is answered, and the rest refused."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.testkit.exports import export_small_model
from tests.testkit.service import serving


def explore(address: str, examples: int, folder: Path) -> "subprocess.CompletedProcess[str]":
    """schemathesis with all of its checks: no 5xx, 2xx for valid requests, 4xx for wrong ones.

    It keeps what it has found in `folder`.
    """
    command = [sys.executable, "-m", "schemathesis.cli", "run", f"{address}/openapi.json"]
    options = ["--checks", "all", "--max-examples", str(examples), "--seed", "1", "--no-color"]
    return subprocess.run(
        [*command, *options], cwd=folder, capture_output=True, text=True, timeout=300
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("export") / "model"
    export_small_model(folder)
    return folder


@pytest.mark.parametrize("examples", [20, pytest.param(150, marks=pytest.mark.slow)])
def test_the_service_does_what_its_openapi_says(
    folder: Path, tmp_path: Path, examples: int
) -> None:
    with serving(folder, max_k=50, max_histories=20) as (_, address):
        done = explore(address, examples, tmp_path)
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr


def test_a_failing_service_is_noticed(folder: Path, tmp_path: Path) -> None:
    """The control of the test above."""
    with serving(folder) as (service, address):

        def fails(histories: Any, options: Any) -> Any:
            raise RuntimeError("the executor is broken")

        service.dispatcher._answer = fails
        done = explore(address, 5, tmp_path)
    assert done.returncode == 1
    assert "Server error" in done.stdout
