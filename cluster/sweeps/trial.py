"""One trial of a sweep: it launches a run like any job and reports each validation to Ray Tune.

A validation is reported once its checkpoint is sealed. The checkpoint that Tune keeps is only a
pointer to that one, so a trial that is resumed, or copied by PBT, continues at the exact sample.
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
STOP_S = 300.0  # A run that is asked to stop may first have to finish a validation.
POINTER = "pointer.json"
METRICS = "metrics.jsonl"


@dataclass(frozen=True)
class SweepPlan:
    """The part of a sweep that all trials share."""

    sweep: SweepConfig
    """The sweep's configuration."""
    trees: dict[str, dict[str, Any]]
    """The base configuration for each kind of policy, before a trial's settings."""
    num_rows: dict[str | None, int]
    """Number of rows that a trial is trained on, for each `training.fit_on` of a trial."""
    num_items: int
    """Number of items of the dataset."""
    history_length: int
    """Number of items in the history of a row."""
    working_folder: str
    """The folder in which the job was started; paths of runs are relative to it."""


class SweepTrial(tune.Trainable):
    """One trial in a Tune actor. Tune calls all public methods.

    Training runs in a thread; a call of `step` waits for the next validation.
    """

    def setup(self, config: dict[str, Any], plan: SweepPlan) -> None:  # type: ignore[override]
        """Keeps the settings; training starts with the first `step`.

        Args:
            config: the drawn settings, a value for each dimension of the sweep.
        """
        os.chdir(plan.working_folder)  # Tune starts its actors in another folder.
        self.drawn, self.plan = config, plan
        self.pointer: dict[str, Any] | None = None
        self.results: Iterator[dict[str, Any]] | None = None

    def step(self) -> dict[str, Any]:
        """The result of the next validation, in the form that Tune expects."""
        if self.results is None:
            self.results = self._start()
        result = next(self.results, None)
        if result is None:
            return {RESULT_DUPLICATE: True, DONE: True}
        self.pointer = {"trial": self.trial_name, "run": self.run.name, "step": result["step"]}
        if result["step"] < self.plan.sweep.max_samples // self.run.training.global_batch_rows:
            return result
        # The last result is reported only when the run has ended; PBT would otherwise copy another
        # trial into this one.
        self.training.result()
        return result | {DONE: True}

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Writes a pointer to the sealed checkpoint of the last validation."""
        (Path(checkpoint_dir) / POINTER).write_text(json.dumps(self.pointer))

    def load_checkpoint(self, checkpoint: str) -> None:  # type: ignore[override]
        """Reads the pointer of this trial, or of the trial that PBT copies into this one."""
        self.pointer = json.loads((Path(checkpoint) / POINTER).read_text())

    def cleanup(self) -> None:
        """Stops the run before Tune ends this actor; its workers would otherwise keep their CPUs.

        An actor that ends waits for its own calls, and Ray Train's controller is such a call until
        the run ends.
        """
        if self.results is None:
            return
        deadline = time.monotonic() + STOP_S
        while not self.training.done():
            request_stop(self.run)  # Repeated, because a run that is starting clears old requests.
            if time.monotonic() > deadline:
                os._exit(1)  # The processes that this actor started end with it.
            time.sleep(POLL_S)

    def _start(self) -> Iterator[dict[str, Any]]:
        """Starts the training thread; returns the results of its validations, one by one."""
        name, plan = self.trial_name, self.plan
        self.run = trial_config(plan.sweep, plan.trees, self.drawn, name, plan.num_rows)
        after_step = 0
        if self.pointer is None:
            set_aside(self.run)
        else:
            self.run, after_step = run_from(self.run, self.pointer), self.pointer["step"]
        network = build_network(self.run, plan.num_items)
        cost = measure_cost(network, plan.history_length, min(TOP, plan.num_items))
        self.training = _in_background(partial(launch_training, self.run))
        return validations(self.run, self.training, cost, after_step)


def run_from(config: RunConfig, pointer: dict[str, Any]) -> RunConfig:
    """The run in which a trial continues from the checkpoint of a pointer.

    If the pointer is the trial's own and the settings are unchanged, that is the run that wrote the
    checkpoint. Otherwise PBT copied another trial, and it is a new run that starts from a copy of
    the checkpoint.
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
        past = (line for line in _lines(source.folder) if line["step"] <= pointer["step"])
        text = "".join(json.dumps(line) + "\n" for line in past)
        write_text_durably(copy.folder / METRICS, text)
        draft.rename(checkpoints)
    return copy


def set_aside(config: RunConfig) -> None:
    """Renames the folder of a run of this name that was started with other settings.

    Tune saves its state only about every ten seconds. After a crash of the sweep it may draw the
    trials of the last seconds anew, under the same names.
    """
    if (config.folder / "config.json").exists() and changed_configuration(config):
        config.folder.rename(config.folder.with_name(f".{config.name}-{uuid.uuid4().hex[:8]}"))


def validations(
    config: RunConfig, training: "Future[Any]", cost: ComputeCost, after_step: int
) -> Iterator[dict[str, Any]]:
    """Yields each validation of a run once its checkpoint is sealed, until training ends.

    MRR@20, share of kept blocks and FLOPs speedup are those of the best network so far, which would
    be the one to serve. A network without a policy keeps all blocks.

    Args:
        training: the result of the training thread.
        cost: the FLOPs of the network's parts.
        after_step: validations up to this step are left out.

    Raises:
        Exception: the error that ended training.
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
    """The complete lines of a run's metrics file."""
    path = folder / METRICS
    text = path.read_text() if path.exists() else ""
    return [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]


def _served(line: dict[str, Any], config: RunConfig, cost: ComputeCost) -> dict[str, Any]:
    """The numbers that a sweep reports of a network, from a validation's line of the log."""
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
    """Runs `work` in a thread that does not keep the process alive when Tune ends it."""
    future: Future[Any] = Future()

    def run() -> None:
        try:
            future.set_result(work())
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return future
