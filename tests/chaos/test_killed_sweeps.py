"""A sweep goes on after its trial, a driver or its own process is killed; trials lose nothing."""

import json
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from cluster.sweeps.results import read_trials
from cluster.training.launch import launch_training
from skiprec.config.files import load_config
from skiprec.config.run import RunConfig
from tests.testkit.faults import note_fault
from tests.testkit.jobs import finish, kill_session, start_job, wait_for_step, worker_pid
from tests.testkit.runs import (
    SMOKE,
    build_smoke_data,
    last_weights,
    metric,
    same_weights,
    starts,
)

pytestmark = pytest.mark.slow
SWEEP = """
name = "k"
scheduler = "none"
num_trials = 2
max_samples = 4480
report_samples = 640
[space]
"training.learning_rate" = { low = 1e-3, high = 1e-2, log = true }
"policy.target_keep_frac" = { low = 0.2, high = 0.8 }
"""
SETTINGS = (
    "evaluation.num_workers=0",
    "evaluation.timing_batches=[1]",
    "evaluation.timing_repeats=3",
    "model.num_blocks=24",  # slow enough to be killed in mid-run
)


class Sweep:
    """The job of a sweep, and its first trial."""

    def __init__(self, root: Path) -> None:
        (root / "sweep.toml").write_text(SWEEP)
        self.arguments = ["--config", str(SMOKE), "--sweep", str(root / "sweep.toml")]
        for override in (f"root={root}", f"data.path={root}/data", *SETTINGS):
            self.arguments += ["--set", override]
        self.log = root / "log.txt"
        self.trial = load_config(SMOKE, (f"root={root}", "name=k-00000"))
        self.process = self.start()

    def start(self) -> "subprocess.Popen[bytes]":
        return start_job("tune_policy.py", *self.arguments, log=self.log)

    def kill_worker(self) -> None:
        os.kill(worker_pid(self.trial.folder), signal.SIGKILL)

    def kill_driver(self) -> None:
        lease = json.loads((self.trial.folder / "lease.json").read_text())
        os.kill(lease["pid"], signal.SIGKILL)

    def interrupt(self) -> None:
        self.process.send_signal(signal.SIGINT)
        assert self.process.wait(60) == 130
        assert self.log.read_text().endswith("interrupted; the same command goes on\n")
        assert not (Path(self.trial.root) / "k/best.toml").exists()
        self.process = self.start()

    def kill(self) -> None:
        kill_session(self.process)
        self.process = self.start()


# One after the other in one sweep: what happens to the trial at a step, and what a user reads.
FAULTS = (
    (
        "the trial's worker killed",
        12,
        Sweep.kill_worker,
        "rank 0 died; restarting from the newest good checkpoint",
    ),
    (
        "the trial's driver killed",
        25,
        Sweep.kill_driver,
        "Tune starts the trial again, which goes on",
    ),
    ("the sweep ended by Ctrl-C", 38, Sweep.interrupt, "interrupted; the same command goes on"),
    ("the sweep killed", 51, Sweep.kill, "the same command goes on with it"),
)


def test_what_is_killed_goes_on_and_nothing_is_lost(tmp_path: Path) -> None:
    build_smoke_data(tmp_path)
    sweep = Sweep(tmp_path)
    times = []
    for _, step, strike, _ in FAULTS:
        wait_for_step(sweep.trial.folder, step)
        times.append(time.time())
        strike(sweep)
    text = finish(sweep.process, sweep.log, timeout_s=240)
    assert [row["complete"] for row in read_trials(tmp_path / "k")] == [True, True], text

    begun = [start["time"] for start in starts(sweep.trial)]
    assert len(begun) == 1 + len(FAULTS)
    for (fault, _, _, read), struck, again in zip(FAULTS, times, begun[1:], strict=True):
        assert struck < again
        note_fault(fault, "nothing", again - struck, read)

    saved = json.loads((sweep.trial.folder / "config.json").read_text())
    alone = RunConfig.model_validate(saved | {"root": str(tmp_path / "alone")})
    launch_training(alone)
    assert metric(sweep.trial, "train/loss") == metric(alone, "train/loss")
    assert same_weights(last_weights(sweep.trial), last_weights(alone))
