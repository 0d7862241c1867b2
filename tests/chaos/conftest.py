"""Shared runs of the chaos tests, and a table of the cost of each fault at the end of the tier."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import ray

from cluster.machine.session import ray_session
from cluster.training.launch import launch_training
from skiprec.config.run import RunConfig
from tests.testkit.faults import FAULT_SETTINGS, TABLE
from tests.testkit.runs import build_smoke_data, smoke_config


def pytest_sessionstart() -> None:
    TABLE.parent.mkdir(exist_ok=True)
    TABLE.unlink(missing_ok=True)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if not TABLE.exists():
        return
    terminalreporter.section("faults")
    terminalreporter.write_line("| fault | lost | recovery | what the user reads |")
    terminalreporter.write_line("| --- | --- | --- | --- |")
    for row in map(json.loads, TABLE.read_text().splitlines()):
        seconds = "ends" if row["recovery_s"] is None else f"{row['recovery_s']:.0f} s"
        terminalreporter.write_line(
            f"| {row['fault']} | {row['lost']} | {seconds} | {row['read']} |"
        )


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_smoke_data(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="session")
def unbroken(tmp_path_factory: pytest.TempPathFactory, data: Path) -> RunConfig:
    """Ten steps on two workers, with nothing broken."""
    config = smoke_config(tmp_path_factory.mktemp("unbroken"), data, *FAULT_SETTINGS)
    with ray_session(num_cpus=2):
        launch_training(config)
    return config


@pytest.fixture(scope="module")
def local_ray(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """One Ray of two CPUs for all the runs of a module."""
    with ray_session(num_cpus=2):
        yield
    assert not ray.is_initialized()
