"""Files of a run or of its data are damaged while nothing runs; the same command then resumes."""

import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from ray.train.v2._internal.constants import CHECKPOINT_MANAGER_SNAPSHOT_FILENAME

from cluster.runs.folder import lease
from cluster.training import launch as train
from skiprec.config.run import RunConfig
from tests.testkit.faults import FAULT_SETTINGS, note_fault
from tests.testkit.runs import (
    best_weights,
    last_weights,
    metric,
    same_weights,
    smoke_config,
    starts,
)

NEWEST, BEFORE = 8, 6
# Most of these faults have nothing to do with Ray, so the job's own process trains.
HERE = ("cluster.num_workers=0", "cluster.zero_stage=0", "training.engine=torch")


@pytest.fixture(scope="module")
def unbroken_here(tmp_path_factory: pytest.TempPathFactory, data: Path) -> RunConfig:
    """Ten steps in this process, with nothing broken."""
    config = smoke_config(tmp_path_factory.mktemp("here"), data, *FAULT_SETTINGS, *HERE)
    train.launch_training(config)
    return config


def cut_off(unbroken: RunConfig, root: Path) -> RunConfig:
    """The same run as it was after the checkpoint of step `NEWEST`, had it died then."""
    config = unbroken.model_copy(update={"root": str(root)})
    shutil.copytree(unbroken.folder, config.folder)
    (config.folder / "config.json").write_text(config.model_dump_json())
    (config.folder / "result.json").unlink()
    for path in (config.folder / "checkpoints").glob("step-*"):
        if int(path.name.removeprefix("step-")) > NEWEST:
            shutil.rmtree(path)
    return config


@pytest.fixture
def broken_here(tmp_path: Path, unbroken_here: RunConfig) -> RunConfig:
    return cut_off(unbroken_here, tmp_path)


@pytest.fixture
def broken(tmp_path: Path, unbroken: RunConfig, local_ray: None) -> RunConfig:
    """On two workers of Ray."""
    return cut_off(unbroken, tmp_path)


def checkpoint(config: RunConfig) -> Path:
    return config.folder / "checkpoints" / f"step-{NEWEST:08d}"


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def tear_snapshot(config: RunConfig) -> None:
    """Cuts a file that Ray writes in place."""
    (start,) = (config.folder / "ray").iterdir()
    (start / CHECKPOINT_MANAGER_SNAPSHOT_FILENAME).write_text('{"torn')


# What is done, and at which step the run goes on then.
FAULTS: dict[str, tuple[Callable[[RunConfig], None], int]] = {
    "newest checkpoint truncated": (
        lambda config: cut(checkpoint(config) / "weights.safetensors"),
        BEFORE,
    ),
    "one rank's file of it gone": (
        lambda config: (checkpoint(config) / "engine/rank-00000.safetensors").unlink(),
        BEFORE,
    ),
    "its manifest torn": (lambda config: cut(checkpoint(config) / "manifest.json"), BEFORE),
}
FAULTS_ON_RAY: dict[str, tuple[Callable[[RunConfig], None], int]] = {
    "one byte of the newest checkpoint flipped": (
        lambda config: flip(checkpoint(config) / "engine/rank-00001.safetensors"),
        BEFORE,
    ),
}


def assert_it_goes_on(config: RunConfig, step: int, unbroken: RunConfig) -> float:
    """From `step`, and to the same end; returns how long it took to come to its first step."""
    asked = time.time()
    train.launch_training(config)
    start = starts(config)[-1]
    assert f"training from step {step} " in start["message"]
    assert metric(config, "train/loss") == metric(unbroken, "train/loss")
    assert same_weights(last_weights(config), last_weights(unbroken))
    assert same_weights(best_weights(config), best_weights(unbroken))
    return start["time"] - asked


@pytest.mark.parametrize("fault", FAULTS)
def test_a_damaged_run_goes_on_from_what_is_whole(
    fault: str, broken_here: RunConfig, unbroken_here: RunConfig
) -> None:
    assert_damage_costs_nothing(fault, *FAULTS[fault], broken_here, unbroken_here)


@pytest.mark.slow
@pytest.mark.parametrize("fault", FAULTS_ON_RAY)
def test_a_damaged_run_of_two_workers_goes_on_from_what_is_whole(
    fault: str, broken: RunConfig, unbroken: RunConfig
) -> None:
    assert_damage_costs_nothing(fault, *FAULTS_ON_RAY[fault], broken, unbroken)


def assert_damage_costs_nothing(
    fault: str,
    damage: Callable[[RunConfig], None],
    step: int,
    broken: RunConfig,
    unbroken: RunConfig,
) -> None:
    damage(broken)
    recovery_s = assert_it_goes_on(broken, step, unbroken)
    events = (broken.folder / "events-rank0.jsonl").read_text()
    passed_over = "passed over checkpoint step-00000008: " in events
    assert passed_over == (step == BEFORE)
    what = f"passed over checkpoint step-{NEWEST:08d}: …" if passed_over else "nothing: not used"
    note_fault(fault, "nothing", recovery_s, what)


def shard_of(data: Path) -> Path:
    (path,) = data.glob("train*.arrow")
    return path


SHARD_FAULTS: dict[str, tuple[Callable[[Path], None], str]] = {
    "a shard truncated": (lambda data: cut(shard_of(data)), "bytes, the manifest says"),
    "one byte of a shard flipped": (lambda data: flip(shard_of(data)), "has sha256"),
    "a shard missing": (lambda data: shard_of(data).unlink(), "is missing"),
}


@pytest.mark.parametrize("fault", SHARD_FAULTS)
def test_damaged_shards_are_refused_until_they_are_whole_again(
    fault: str, tmp_path: Path, data: Path, broken_here: RunConfig, unbroken_here: RunConfig
) -> None:
    damage, message = SHARD_FAULTS[fault]
    copy = tmp_path / "copy"
    shutil.copytree(data, copy)
    moved = broken_here.model_copy(
        update={"data": broken_here.data.model_copy(update={"path": str(copy)})}
    )
    (moved.folder / "config.json").write_text(moved.model_dump_json())
    damage(copy)
    with pytest.raises(ValueError, match=message) as refused:
        train.launch_training(moved)
    assert "build the dataset again" in str(refused.value)
    assert len(starts(moved)) == 1, "no worker has started"
    shutil.rmtree(copy)
    shutil.copytree(data, copy)
    recovery_s = assert_it_goes_on(moved, NEWEST, unbroken_here)
    note_fault(fault, "nothing", recovery_s, str(refused.value).replace(str(copy), "…"))


@pytest.mark.slow
def test_a_torn_snapshot_and_a_stale_lock_of_a_killed_build_cost_nothing(
    tmp_path: Path, broken: RunConfig, unbroken: RunConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ray would read its snapshot where a name is used again; DeepSpeed would wait for the lock of
    an extension that it builds by default at its first start.
    """
    tear_snapshot(broken)
    for name in ("deepspeed_shm_comm", "fused_adam", "cpu_adam"):
        (tmp_path / "extensions" / name).mkdir(parents=True)
        (tmp_path / "extensions" / name / "lock").touch()
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path / "extensions"))
    recovery_s = assert_it_goes_on(broken, NEWEST, unbroken)
    note_fault("Ray's own snapshot torn", "nothing", recovery_s, "nothing: not used")
    read = "nothing; jobs/check_environment.py names the lock"
    note_fault("a stale lock of a killed build", "nothing", recovery_s, read)


def test_a_run_that_is_alive_is_refused(broken_here: RunConfig, unbroken_here: RunConfig) -> None:
    with lease(broken_here), pytest.raises(ValueError, match="is alive: process") as refused:
        train.launch_training(broken_here)
    recovery_s = assert_it_goes_on(broken_here, NEWEST, unbroken_here)
    note_fault("the same run started twice", "nothing", recovery_s, str(refused.value))
