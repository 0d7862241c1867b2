"""A sweep resumes after its trial, a driver or its own process is killed; trials lose nothing."""

import json
import os
import signal
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
num_trials = {num_trials}
max_samples = 2560
report_samples = 640
[space]
"training.learning_rate" = {{ low = 1e-3, high = 1e-2, log = true }}
"policy.target_keep_frac" = {{ low = 0.2, high = 0.8 }}
"""
SETTINGS = (
    "evaluation.num_workers=0",
    "evaluation.timing_batches=[1]",
    "evaluation.timing_repeats=3",
    "model.num_blocks=24",  # slow enough to be killed in mid-run
)
# A sweep that dies takes its whole Ray along; so its trials need no workers of their own there.
WITHOUT_WORKERS = ("cluster.num_workers=0", "training.engine=torch")
READ = {
    "the trial's worker killed": "rank 0 died; restarting from the newest good checkpoint",
    "the trial's driver killed": "Tune starts the trial again, which goes on",
    "the sweep killed": "the same command goes on with it",
    "the sweep ended by Ctrl-C": "interrupted; the same command goes on",
}


@pytest.fixture(scope="module")
def alone() -> dict[str, RunConfig]:
    """By its settings, the first trial as a run of its own: each sweep draws the same."""
    return {}


@pytest.mark.parametrize("what", READ)
def test_what_is_killed_goes_on_and_nothing_is_lost(
    tmp_path: Path, what: str, alone: dict[str, RunConfig]
) -> None:
    build_smoke_data(tmp_path)
    file = tmp_path / "sweep.toml"
    has_workers = what.startswith("the trial's")
    num_trials = 1 if has_workers else 2
    file.write_text(SWEEP.format(num_trials=num_trials))
    arguments = ["--config", str(SMOKE), "--sweep", str(file)]
    settings = SETTINGS + (() if has_workers else WITHOUT_WORKERS)
    for override in (f"root={tmp_path}", f"data.path={tmp_path}/data", *settings):
        arguments += ["--set", override]
    log = tmp_path / "log.txt"
    process = start_job("tune_policy.py", *arguments, log=log)
    first = load_config(SMOKE, (f"root={tmp_path}", "name=k-00000"))
    wait_for_step(first.folder, 12)
    killed_at = time.time()
    if what == "the trial's worker killed":
        os.kill(worker_pid(first.folder), signal.SIGKILL)
    elif what == "the trial's driver killed":
        os.kill(json.loads((first.folder / "lease.json").read_text())["pid"], signal.SIGKILL)
    else:
        if what == "the sweep killed":
            kill_session(process)
        else:
            process.send_signal(signal.SIGINT)
            assert process.wait(60) == 130
            assert log.read_text().endswith("interrupted; the same command goes on\n")
            assert not (tmp_path / "k/best.toml").exists()
        process = start_job("tune_policy.py", *arguments, log=log)
    text = finish(process, log, timeout_s=240)
    assert [row["complete"] for row in read_trials(tmp_path / "k")] == [True] * num_trials, text
    after = [start["time"] for start in starts(first) if start["time"] > killed_at]
    assert len(after) == 1

    saved = json.loads((first.folder / "config.json").read_text())
    drawn = json.dumps([saved["training"], saved["policy"]])
    if drawn not in alone:
        alone[drawn] = RunConfig.model_validate(saved | {"root": str(tmp_path / "alone")})
        launch_training(alone[drawn])
    assert metric(first, "train/loss") == metric(alone[drawn], "train/loss")
    assert same_weights(last_weights(first), last_weights(alone[drawn]))
    note_fault(what, "nothing", after[0] - killed_at, READ[what])
