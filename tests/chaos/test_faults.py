"""Each fault at an exact place: no sample is lost, and the weights equal an unbroken run's."""

from pathlib import Path

import pytest
from safetensors.torch import load_file

from cluster.training import launch as train
from cluster.training.failures import RunFailedError
from skiprec.checkpoints.files import newest_good, step_name
from skiprec.config.run import RunConfig
from tests.testkit.faults import FAULT_SETTINGS, Fault, note_fault, with_faults
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
# One after another in one run, each with the step of the checkpoint from which the run goes on.
FAULTS: dict[str, tuple[Fault, int]] = {
    "rank 1 killed in forward": (("forward", "kill", 3), 2),
    "rank 1 killed while saving": (("saving", "kill", 4), 2),
    "rank 1 raises an error once": (("forward", "raise_error", 5), 5),
    "rank 1 killed between saving and reporting": (("reporting", "kill", 6), 6),
    "rank 1 hangs": (("forward", "hang", 7), 6),
}
MORE_RETRIES = "cluster.max_failures=9"


def assert_nothing_was_lost(config: RunConfig, unbroken: RunConfig) -> None:
    assert metric(config, "train/loss") == metric(unbroken, "train/loss")
    assert len(metric(config, "train/loss")) == 10
    assert same_weights(last_weights(config), last_weights(unbroken))
    assert same_weights(best_weights(config), best_weights(unbroken))


def start_steps(config: RunConfig) -> list[int]:
    """The step from which each start of the workers trains."""
    return [int(start["message"].split()[3]) for start in starts(config)]


def recovery_s(config: RunConfig, fault: Fault, start: int) -> float:
    """Seconds from a fault to the first step of the start that follows it."""
    fault_at = (config.folder / f"FAULT-{fault[2]}").stat().st_mtime
    seconds: float = starts(config)[start]["time"] - fault_at
    assert 0 < seconds < 60
    return seconds


def test_ray_trains_what_one_process_trains(data: Path, unbroken: RunConfig) -> None:
    """The torch engine in one process, without Ray and DeepSpeed, gives the same losses."""
    one = ("training.engine=torch", "cluster.num_workers=1", "cluster.zero_stage=0", "name=alone")
    alone = smoke_config(Path(unbroken.root), data, *FAULT_SETTINGS, *one)
    train_here(alone)
    assert metric(alone, "train/loss") == pytest.approx(metric(unbroken, "train/loss"), rel=2e-5)


def test_a_killed_rank_costs_nothing(
    tmp_path: Path, data: Path, unbroken: RunConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    fault = ("backward", "kill", 7)
    monkeypatch.setattr(train, "ray_train_worker", with_faults(fault))
    config = smoke_config(tmp_path, data, *FAULT_SETTINGS)
    train.launch_training(config)
    assert start_steps(config) == [0, 6]
    assert_nothing_was_lost(config, unbroken)
    (message,) = messages(config)
    assert message == "rank 1 died; restarting from the newest good checkpoint (1 of 2 retries)"
    note_fault("rank 1 killed in backward", "nothing", recovery_s(config, fault, 1), message)


@pytest.mark.slow
def test_one_fault_after_another_costs_nothing(
    tmp_path: Path, data: Path, unbroken: RunConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker = with_faults(*(fault for fault, _ in FAULTS.values()))
    monkeypatch.setattr(train, "ray_train_worker", worker)
    config = smoke_config(tmp_path, data, *FAULT_SETTINGS, MORE_RETRIES)
    train.launch_training(config)
    assert start_steps(config) == [0, *(step for _, step in FAULTS.values())]
    assert_nothing_was_lost(config, unbroken)
    told = zip(FAULTS.items(), messages(config), strict=True)
    for number, ((name, (fault, _)), message) in enumerate(told, 1):
        assert "rank 1" in message, name
        retries = f"restarting from the newest good checkpoint ({number} of 9 retries)"
        assert message.endswith(retries), name
        seconds = recovery_s(config, fault, number)
        note_fault(name, "nothing", seconds, message.replace(str(config.folder), "…"))
    (stacks,) = config.folder.glob("stacks-rank1-*.txt")
    assert "faults.py" in stacks.read_text(), "where it hung"
    assert str(stacks) in messages(config)[-1]


@pytest.mark.slow
def test_a_run_that_ends_goes_on_once_the_reason_is_gone(
    tmp_path: Path, data: Path, unbroken: RunConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three reasons, one after another; only an error in training is tried a second time."""
    config = smoke_config(tmp_path, data, *FAULT_SETTINGS, MORE_RETRIES)

    def ends(name: str, fault: Fault, match: str) -> None:
        monkeypatch.setattr(train, "ray_train_worker", with_faults(fault, repeats=True))
        with pytest.raises(RunFailedError, match=match):
            train.launch_training(config)
        read = messages(config)[-1].replace(str(tmp_path), "…")
        note_fault(name, "nothing", None, read)

    ends(
        "the same step fails twice",
        ("forward", "raise_error", 3),
        "in step 3: RuntimeError: the test's own error",
    )
    assert start_steps(config) == [0, 2]
    assert "step 3 failed twice" in messages(config)[-1]

    ends("a gradient is not finite", ("gradient", "kill", 5), "trying again would not help")
    assert start_steps(config) == [0, 2, 2], "a retry would see the same rows and weights"
    saved = load_file(config.folder / "not-finite-rank1.safetensors")
    assert saved["items_BW"].shape[0] == saved["key_B"].shape[0] == 32
    newest, _ = newest_good(config.folder / "checkpoints")
    assert newest is not None
    assert newest.name == step_name(5)
    weights = load_file(newest / "weights.safetensors")
    assert all(value.isfinite().all() for value in weights.values())

    ends("the disk is full", ("saving", "fill_disk", 6), "make room")
    assert start_steps(config) == [0, 2, 2, 5]
    newest, skipped = newest_good(config.folder / "checkpoints")
    assert newest is not None
    assert (newest.name, skipped) == (step_name(5), [])

    monkeypatch.undo()
    train.launch_training(config)
    assert start_steps(config) == [0, 2, 2, 5, 5]
    assert_nothing_was_lost(config, unbroken)
