"""What a trial of a sweep does: it launches a run like any job, and reports each validation.

It reports once a validation's checkpoint is sealed. What Tune keeps as the trial's checkpoint is a
pointer to that one, so a trial that is resumed, or copied by PBT, goes on to the sample.
"""

import json
import os
import shutil
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
from ray.tune.result import DONE, RESULT_DUPLICATE

from cluster.runs.folder import changed_configuration, request_stop
from cluster.sweeps.sweep import SweepConfig, trial_config
from cluster.training.build import build_network
from cluster.training.launch import launch_training
from skiprec.checkpoints.files import newest_step, read_state, step_name
from skiprec.config.run import RunConfig
from skiprec.durable import write_text_durably
from skiprec.evaluation.measure.compute_cost import ComputeCost, measure_cost
from skiprec.evaluation.measure.scoring import TOP
from skiprec.training.loop import BEST_METRIC

POLL_S = 0.5
STOP_S = 300.0  # a validation may have to end first
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


class SweepTrial(tune.Trainable):
    """One trial in a Tune actor. The draws, `config`, are a value for each dimension of the sweep.

    Training goes on in a thread between two calls of `step`, which waits for the next validation.
    """

    def setup(self, config: dict[str, Any], job: SweepJob) -> None:  # type: ignore[override]
        """Called by Tune, as the others are; training starts with the first `step`."""
        os.chdir(job.working_folder)  # Tune moves its actors; the paths of a run are the job's
        self.drawn, self.job = config, job
        self.pointer: dict[str, Any] | None = None
        self.found: Iterator[dict[str, Any]] | None = None

    def step(self) -> dict[str, Any]:
        """The next validation."""
        if self.found is None:
            self.found = self._start()
        result = next(self.found, None)
        if result is None:
            return {RESULT_DUPLICATE: True, DONE: True}
        self.pointer = {"trial": self.trial_name, "run": self.run.name, "step": result["step"]}
        if result["step"] < self.job.sweep.max_samples // self.run.training.global_batch_rows:
            return result
        self.training.result()  # PBT would copy into a trial whose last step is not its end
        return result | {DONE: True}

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """A pointer to the sealed checkpoint of the last validation."""
        (Path(checkpoint_dir) / POINTER).write_text(json.dumps(self.pointer))

    def load_checkpoint(self, checkpoint: str) -> None:  # type: ignore[override]
        """The pointer, of this trial or of the one that PBT copies."""
        self.pointer = json.loads((Path(checkpoint) / POINTER).read_text())

    def cleanup(self) -> None:
        """Ends the run before Tune ends this actor; else its workers would keep their CPUs.

        An actor waits for its calls to end, and Ray Train's controller is one, until the run ends.
        """
        if self.found is None:
            return
        deadline = time.monotonic() + STOP_S
        while not self.training.done():
            request_stop(self.run)  # again and again: a run that is starting clears old requests
            if time.monotonic() > deadline:
                os._exit(1)  # what it started ends with it
            time.sleep(POLL_S)

    def _start(self) -> Iterator[dict[str, Any]]:
        name, job = self.trial_name, self.job
        self.run = trial_config(job.sweep, job.trees, self.drawn, name, job.num_rows)
        after_step = 0
        if self.pointer is None:
            set_aside(self.run)
        else:
            self.run, after_step = run_from(self.run, self.pointer), self.pointer["step"]
        network = build_network(self.run, job.num_items)
        cost = measure_cost(network, job.history_length, min(TOP, job.num_items))
        self.training = _in_background(partial(launch_training, self.run))
        return validations(self.run, self.training, cost, after_step)


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
    policy = 0 if not config.policy.decides else cost.policy
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
