"""Each fault at an exact place: no sample is lost, and the weights equal an unbroken run's."""

import json
from pathlib import Path

import pytest
from safetensors.torch import load_file

from cluster.runs.events import controller_events
from cluster.training import launch as train
from cluster.training.failures import RunFailedError
from skiprec.checkpoints.files import newest_good, step_name
from skiprec.config.run import RunConfig
from tests.testkit.faults import FAULT_SETTINGS, FAULT_STEP, note_fault, with_fault
from tests.testkit.runs import (
    best_weights,
    last_weights,
    messages,
    metric,
    same_weights,
    smoke_config,
    starts,
    train_here,
)

pytestmark = pytest.mark.usefixtures("local_ray")
PLACES = {
    "rank 1 killed in forward": ("forward", "kill"),
    "rank 1 killed in backward": ("backward", "kill"),
    "rank 1 killed while saving": ("saving", "kill"),
    "rank 1 killed between saving and reporting": ("reporting", "kill"),
    "rank 1 raises an error once": ("forward", "raise_error"),
    "rank 1 hangs": ("forward", "hang"),
}
QUICK = {"rank 1 killed in backward"}


def assert_nothing_was_lost(config: RunConfig, unbroken: RunConfig) -> None:
    assert metric(config, "train/loss") == metric(unbroken, "train/loss")
    assert len(metric(config, "train/loss")) == 10
    assert same_weights(last_weights(config), last_weights(unbroken))
    assert same_weights(best_weights(config), best_weights(unbroken))


def test_ray_trains_what_one_process_trains(data: Path, unbroken: RunConfig) -> None:
    """The torch engine in one process, without Ray and DeepSpeed, gives the same losses."""
    one = ("training.engine=torch", "cluster.num_workers=1", "cluster.zero_stage=0", "name=alone")
    alone = smoke_config(Path(unbroken.root), data, *FAULT_SETTINGS, *one)
    train_here(alone)
    assert metric(alone, "train/loss") == pytest.approx(metric(unbroken, "train/loss"), rel=2e-5)


@pytest.mark.parametrize(
    "fault",
    [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in PLACES],
)
def test_a_failed_worker_costs_nothing(
    fault: str, tmp_path: Path, data: Path, unbroken: RunConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(train, "ray_train_worker", with_fault(*PLACES[fault]))
    config = smoke_config(tmp_path, data, *FAULT_SETTINGS)
    train.launch_training(config)
    assert (config.folder / "FAULT").exists(), "the fault did not happen"
    assert len(starts(config)) == 2
    assert " step 0 " not in starts(config)[1]["message"], "it started from nothing"
    assert_nothing_was_lost(config, unbroken)
    (message,) = messages(config)
    assert "restarting from the newest good checkpoint (1 of 2 retries)" in message
    assert "rank 1" in message
    failed_at = json.loads(controller_events(config.folder).read_text())["time"]
    fault_at = (config.folder / "FAULT").stat().st_mtime
    if fault == "rank 1 hangs":
        assert "time.sleep" not in message
        assert (
            "faults.py" in (config.folder / "stacks-rank1.txt").read_text() or "stacks" in message
        )
    assert failed_at >= fault_at
    recovery_s = starts(config)[1]["time"] - fault_at
    assert recovery_s < 60
    note_fault(fault, "nothing", recovery_s, message.replace(str(config.folder), "…"))


@pytest.mark.slow
def test_a_step_that_fails_twice_ends_the_run(
    tmp_path: Path, data: Path, unbroken: RunConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    fault = with_fault("forward", "raise_error", repeats=True)
    monkeypatch.setattr(train, "ray_train_worker", fault)
    config = smoke_config(tmp_path, data, *FAULT_SETTINGS, "cluster.max_failures=9")
    with pytest.raises(RunFailedError, match=f"in step {FAULT_STEP}: RuntimeError: the test's own"):
        train.launch_training(config)
    assert len(starts(config)) == 2
    assert f"step {FAULT_STEP} failed twice" in messages(config)[-1]
    monkeypatch.undo()
    train.launch_training(config)
    assert_nothing_was_lost(config, unbroken)
    note_fault("the same step fails twice", "nothing", None, messages(config)[-1])


@pytest.mark.slow
def test_a_gradient_that_is_not_finite_ends_the_run_with_its_rows(
    tmp_path: Path, data: Path, unbroken: RunConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(train, "ray_train_worker", with_fault("gradient", "kill", repeats=True))
    config = smoke_config(tmp_path, data, *FAULT_SETTINGS)
    with pytest.raises(RunFailedError, match="trying again would not help"):
        train.launch_training(config)
    assert len(starts(config)) == 1, "a retry would see the same rows with the same weights"
    saved = load_file(config.folder / "not-finite-rank1.safetensors")
    assert saved["items_BW"].shape[0] == saved["key_B"].shape[0] == 32
    newest, _ = newest_good(config.folder / "checkpoints")
    assert newest is not None
    assert newest.name < step_name(FAULT_STEP + 1)
    assert all(
        value.isfinite().all() for value in load_file(newest / "weights.safetensors").values()
    )
    monkeypatch.undo()
    train.launch_training(config)
    assert_nothing_was_lost(config, unbroken)
    note_fault(
        "a gradient is not finite",
        "nothing",
        None,
        messages(config)[-1].replace(str(tmp_path), "…"),
    )


@pytest.mark.slow
def test_a_full_disk_leaves_the_last_checkpoint_and_burns_no_retry(
    tmp_path: Path, data: Path, unbroken: RunConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(train, "ray_train_worker", with_fault("saving", "fill_disk", repeats=True))
    config = smoke_config(tmp_path, data, *FAULT_SETTINGS)
    with pytest.raises(RunFailedError, match="make room"):
        train.launch_training(config)
    assert len(starts(config)) == 1
    newest, skipped = newest_good(config.folder / "checkpoints")
    assert newest is not None
    assert not skipped
    monkeypatch.undo()
    train.launch_training(config)
    assert_nothing_was_lost(config, unbroken)
    note_fault("the disk is full", "nothing", None, messages(config)[-1])
