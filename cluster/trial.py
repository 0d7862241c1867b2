"""What a trial of a sweep does: it launches a run like any job, and reports each validation.

It reports once a validation's checkpoint is sealed. What Tune keeps as the trial's checkpoint is a
pointer to that one, so a trial that is resumed, or copied by PBT, goes on to the sample.
"""

import json
import os
import shutil
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from ray import tune

from cluster.checkpoint import newest_step, read_state, step_name, write_text_durably
from cluster.run_folder import changed_configuration
from cluster.sweep_config import SweepConfig, trial_config
from cluster.train import launch_training
from cluster.worker import build_network
from skiprec.config import RunConfig
from skiprec.evaluation.compute_cost import ComputeCost, measure_cost
from skiprec.evaluation.scoring import TOP
from skiprec.training.loop import BEST_METRIC

POLL_S = 0.5
POINTER = "pointer.json"
METRICS = "metrics.jsonl"


@dataclass(frozen=True)
class SweepJob:
    """What each trial is given beside its settings; `trees` as in `trial_config`."""

    sweep: SweepConfig
    trees: dict[str, dict[str, Any]]
    num_rows: int
    num_items: int
    history_length: int
    working_folder: str


def run_trial(drawn: dict[str, Any], job: SweepJob) -> None:
    """Trains one trial in a Tune actor, or goes on with it; reports to Tune.

    Args:
        drawn: a value for each of the sweep's dimensions.
    """
    os.chdir(job.working_folder)  # Tune moves its actors; the paths of a run are the job's
    trial = tune.get_context().get_trial_name()
    assert trial is not None
    config = trial_config(job.sweep, job.trees, drawn, trial, job.num_rows)
    pointer = _read_pointer(tune.get_checkpoint())
    if pointer is not None:
        config = run_from(config, pointer)
    else:
        set_aside(config)
    network = build_network(config, job.num_items)
    cost = measure_cost(network, job.history_length, min(TOP, job.num_items))
    training = _in_background(partial(launch_training, config))
    for found in validations(config, training, cost, 0 if pointer is None else pointer["step"]):
        pointer = {"trial": trial, "run": config.name, "step": found["step"]}
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / POINTER).write_text(json.dumps(pointer))
            tune.report(found, checkpoint=tune.Checkpoint.from_directory(folder))


def _read_pointer(checkpoint: tune.Checkpoint | None) -> dict[str, Any] | None:
    """{trial, run, step} of the sealed checkpoint to go on from; None at a trial's start."""
    if checkpoint is None:
        return None
    with checkpoint.as_directory() as folder:
        pointer: dict[str, Any] = json.loads((Path(folder) / POINTER).read_text())
    return pointer


def run_from(config: RunConfig, pointer: dict[str, Any]) -> RunConfig:
    """The run with which a trial goes on from a checkpoint.

    It is the run that wrote it, if that is the trial's own and has its settings; else, since PBT
    copied from another trial, a new run that starts with a copy of that checkpoint.
    """
    source = config.model_copy(update={"name": pointer["run"]})
    if pointer["trial"] == config.name and not changed_configuration(source):
        return source
    number = pointer["trial"].rpartition("-")[2]
    copy = config.model_copy(update={"name": f"{config.name}-from-{number}-{pointer['step']}"})
    checkpoints = copy.folder / "checkpoints"
    if not checkpoints.exists():
        draft = copy.folder / ".checkpoints"
        shutil.rmtree(draft, ignore_errors=True)
        newest = source.folder / "checkpoints" / step_name(pointer["step"])
        best_step = read_state(newest).best_step
        assert best_step is not None, "a pointer is made after a validation"
        for step in {pointer["step"], best_step}:
            shutil.copytree(newest.with_name(step_name(step)), draft / step_name(step))
        known = (line for line in _lines(source.folder) if line["step"] <= pointer["step"])
        text = "".join(json.dumps(line) + "\n" for line in known)
        write_text_durably(copy.folder / METRICS, text)
        draft.rename(checkpoints)
    return copy


def set_aside(config: RunConfig) -> None:
    """Renames what a trial of this name began with other settings, before a crash of the sweep.

    Tune saves its state every ten seconds or so; a trial of the last ones may be drawn anew.
    """
    if (config.folder / "config.json").exists() and changed_configuration(config):
        config.folder.rename(config.folder.with_name(f".{config.name}-{uuid.uuid4().hex[:8]}"))


def validations(
    config: RunConfig, training: "Future[Any]", cost: ComputeCost, after_step: int
) -> Iterator[dict[str, Any]]:
    """Each validation of a run after a step, once its checkpoint is sealed, until training ends.

    The accuracy, kept share and FLOPs speedup are those of the best network so far, which is the
    one that would be served; without a policy it keeps all.

    Raises:
        Exception: what ended the training.
    """
    step = after_step
    while True:
        ended = training.done()
        sealed = newest_step(config.folder / "checkpoints")
        best: dict[str, Any] = {}
        for line in _lines(config.folder) if sealed > step or ended else []:
            if BEST_METRIC not in line or line["step"] > sealed:
                continue
            if line[BEST_METRIC] > best.get("mrr@20", -1.0):
                best = _served(line, config, cost)
            if line["step"] > step:
                step = line["step"]
                samples = step * config.training.global_batch_rows
                yield best | {"run": config.name, "step": step, "samples": samples}
        if ended:
            training.result()
            return
        time.sleep(POLL_S)


def _lines(folder: Path) -> list[dict[str, Any]]:
    """The complete lines of a run's log."""
    path = folder / METRICS
    text = path.read_text() if path.exists() else ""
    return [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]


def _served(line: dict[str, Any], config: RunConfig, cost: ComputeCost) -> dict[str, Any]:
    keep_L = np.asarray(
        [line.get(f"policy_blocks/{block:03d}", 1.0) for block in range(len(cost.block_L))]
    )
    policy = 0 if config.policy.kind == "none" else cost.policy
    flops = cost.embedding + policy + cost.head + float(keep_L @ np.asarray(cost.block_L))
    return {
        "mrr@20": line[BEST_METRIC],
        "keep_frac": float(keep_L.mean()),
        "flops_speedup": cost.full / flops,
        "distinct_decisions": line.get("policy/distinct_decisions", 1.0),
    }


def _in_background(work: Callable[[], Any]) -> "Future[Any]":
    """In a thread that does not keep the process alive when Tune ends it."""
    future: Future[Any] = Future()

    def run() -> None:
        try:
            future.set_result(work())
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return future
