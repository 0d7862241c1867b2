"""Two-worker runs under ZeRO-2 on Ray are killed; a second start is refused or resumes the run."""

import os
import shutil
import signal
import time
from pathlib import Path

import pytest

from skiprec.config.run import RunConfig
from tests.testkit.faults import note_fault
from tests.testkit.jobs import finish, kill_session, start_job, wait_for_step, worker_pid
from tests.testkit.runs import (
    SMOKE,
    best_weights,
    build_smoke_data,
    last_weights,
    messages,
    metric,
    same_weights,
    smoke_config,
    starts,
    steps,
)
from tests.testkit.s3 import s3_server

pytestmark = pytest.mark.slow
STEPS = 60
SETTINGS = (
    *steps(STEPS),
    "training.checkpoint_every_steps=5",
    "training.validate_every_steps=30",
    "training.log_every_steps=1",
    "model.num_blocks=24",  # slow enough to be killed in mid-run
    "cluster.num_workers=2",
    "cluster.zero_stage=2",
)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_smoke_data(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory, data: Path) -> RunConfig:
    """The same run with nothing killed, through the same job."""
    root = tmp_path_factory.mktemp("unbroken")
    config, arguments = job_arguments(root, data)
    log = root / "log.txt"
    finish(start_job("train_gumbel.py", *arguments, log=log), log)
    return config


def job_arguments(root: Path, data: Path, *more: str) -> tuple[RunConfig, list[str]]:
    overrides = (f"root={root}", f"data.path={data}", *SETTINGS, *more)
    arguments = ["--config", str(SMOKE)]
    for override in overrides:
        arguments += ["--set", override]
    return smoke_config(root, data, *SETTINGS, *more), arguments


def note_recovery(fault: str, config: RunConfig, killed_at: float, read: str) -> None:
    recovery_s = starts(config)[-1]["time"] - killed_at
    assert 0 < recovery_s < 60
    note_fault(fault, "nothing", recovery_s, read)


def assert_nothing_was_lost(config: RunConfig, unbroken: RunConfig) -> None:
    assert metric(config, "train/loss") == metric(unbroken, "train/loss")
    assert len(metric(config, "train/loss")) == STEPS
    assert same_weights(last_weights(config), last_weights(unbroken))
    assert same_weights(best_weights(config), best_weights(unbroken))


def test_a_killed_worker_then_a_lost_machine_cost_nothing(
    tmp_path: Path, data: Path, unbroken: RunConfig
) -> None:
    config, arguments = job_arguments(tmp_path, data)
    log = tmp_path / "log.txt"
    first = start_job("train_gumbel.py", *arguments, log=log)
    wait_for_step(config.folder, 8)
    killed_at = time.time()
    os.kill(worker_pid(config.folder, rank=1), signal.SIGKILL)
    log_of_second = tmp_path / "second.txt"
    refused = start_job("train_gumbel.py", *arguments, log=log_of_second)
    assert refused.wait(60) == 2
    assert "is alive" in log_of_second.read_text()

    wait_for_step(config.folder, 22)
    note_recovery("one of two workers killed", config, killed_at, messages(config)[0])
    lines = [line for line in log.read_text().splitlines() if "training from step" in line]
    assert len(lines) == 2, lines
    assert "from step 0 " not in lines[1], "it started from scratch: the checkpoint was unused"

    assert first.poll() is None, "the run ended before it could be killed"
    killed_at = time.time()
    kill_session(first)
    text = finish(start_job("train_gumbel.py", *arguments, log=log), log)
    assert text.count("training from step") == 3
    assert_nothing_was_lost(config, unbroken)
    read = "the same command goes on"
    note_recovery("driver and machine killed, same command", config, killed_at, read)

    again = tmp_path / "again.txt"
    assert "finished already" in finish(start_job("train_gumbel.py", *arguments, log=again), again)
    changed = tmp_path / "changed.txt"
    other = start_job("train_gumbel.py", *arguments, "--set", "training.seed=5", log=changed)
    assert other.wait(60) == 2
    assert "training.seed: 0 -> 5" in changed.read_text()


def test_a_lost_disk_is_restored_from_s3(tmp_path: Path, data: Path, unbroken: RunConfig) -> None:
    """The run resumes on a machine that has only the data and the copy on storage."""
    with s3_server() as uri:
        storage = f'cluster.storage_path="{uri}"'
        config, arguments = job_arguments(tmp_path / "first", data, storage)
        log = tmp_path / "log.txt"
        first = start_job("train_gumbel.py", *arguments, log=log)
        wait_for_step(config.folder, 12)
        kill_session(first)
        shutil.rmtree(tmp_path / "first")
        killed_at = time.time()
        config, arguments = job_arguments(tmp_path / "second", data, storage)
        log = tmp_path / "second.txt"
        text = finish(start_job("train_gumbel.py", *arguments, log=log), log)
    restored = next(line for line in text.splitlines() if "restored step" in line)
    assert "training from step 0 " not in text
    assert_nothing_was_lost(config, unbroken)
    read = restored.partition(" from s3:")[0] + " from s3://…"
    note_recovery("machine and disk lost, same command", config, killed_at, read)
