"""The members of an evaluation's crews: some score work units, and one takes the times.

They are actors of Ray, or objects in the job's own process (see `crew.py`).
"""

from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from cluster.machine.process import cpu_model, keep_freed_memory
from skiprec.checkpoints.network import load_network
from skiprec.config.run import RunConfig
from skiprec.data.batching import evenly_spaced_rows
from skiprec.data.halves import SomeRows, rows_to_validate
from skiprec.data.shards import ShardSet
from skiprec.evaluation.measure.arms import Arms, Decided
from skiprec.evaluation.measure.native_timing import (
    Agreement,
    compare_unit,
    describe_native_executor,
    native_stages,
    why_no_native_executor,
)
from skiprec.evaluation.measure.scoring import (
    decide_unit,
    describe_rows,
    score_arms,
    score_baselines,
    score_full,
)
from skiprec.evaluation.measure.tiles import read_tiles
from skiprec.evaluation.measure.timing import Times, TimingPlan, TimingSample, time_arms
from skiprec.evaluation.report.schema import Machine
from skiprec.evaluation.report.table import Columns
from skiprec.inference.native.from_network import NativeNetwork
from skiprec.inference.native.library import level_of
from skiprec.network import SkipRecNetwork
from skiprec.policy.priced import PriceKnob

Longs = NDArray[np.int64]


@dataclass(frozen=True)
class Job:
    """The inputs of every actor of one evaluation; all paths are absolute.

    `setting` replaces the setting of the policy's knob after training. It is a part of this value
    and not set on an actor, because a lost actor is started again from this value.
    """

    config: RunConfig
    run_folder: Path
    data_path: Path
    setting: float | None = None

    @property
    def backbone_folder(self) -> Path | None:
        """The pretraining run, which lies beside this one."""
        name = self.config.init_from
        return None if name is None else self.run_folder.parent / name

    def open_rows(self) -> tuple[ShardSet, Longs]:
        """The evaluated split and the numbers of its evaluated rows.

        Validation rows on which the policy was fitted are none of them (`training.fit_on`).
        """
        evaluation = self.config.evaluation
        shards = ShardSet.open(self.data_path, evaluation.split)
        rows: ShardSet | SomeRows = shards
        if evaluation.split == "validation":
            rows = rows_to_validate(self.data_path, self.config.training)
        row_R = evenly_spaced_rows(rows.num_rows, evaluation.max_rows)
        return shards, rows.row_R[row_R] if isinstance(rows, SomeRows) else row_R

    def load(self) -> SkipRecNetwork:
        """The run's best network on this actor's device."""
        network = self._load(self.run_folder)
        if self.setting is not None:
            serving_knob(network).turn(self.setting)
        return network

    def load_backbone(self) -> SkipRecNetwork | None:
        """The best network of the pretraining run, if there was one."""
        return None if self.backbone_folder is None else self._load(self.backbone_folder)

    def _load(self, folder: Path) -> SkipRecNetwork:
        # All actors have the same number of threads.
        torch.set_num_threads(self.config.cluster.threads_per_worker)
        keep_freed_memory()
        device = "cuda" if self.config.cluster.use_gpu else "cpu"
        return load_network(folder)[1].to(device)


def serving_knob(network: SkipRecNetwork) -> PriceKnob:
    """The knob that `evaluation.keep_frac` turns; the configuration allows this key for policies
    with such a knob alone."""
    knob = None if network.policy is None else network.policy.knob
    assert isinstance(knob, PriceKnob)
    return knob


class Scorer:
    """Computes work units. The results do not depend on which actor computes which unit.

    Args:
        place_V: of `popularity_places`, for the baselines.
    """

    def __init__(self, job: Job, place_V: Longs) -> None:
        self.place_V = place_V
        self.exclude_seen = job.config.evaluation.exclude_seen
        self.shards, self.row_R = job.open_rows()
        self.network = job.load()
        self.native: NativeNetwork | None = None
        self.executor = job.config.evaluation.executor
        self.backbone = self.network if self.network.policy is None else job.load_backbone()

    def decide(self, unit: slice) -> Decided:
        """The policy's decisions for the rows of a unit."""
        _, tiles = read_tiles(self.shards, self.row_R[unit])
        return decide_unit(self.network, tiles)

    def score(self, unit: slice, arms: Arms | None) -> Columns:
        """The columns of the per-user table for the rows of a unit; `arms` are of these rows."""
        rows, tiles = read_tiles(self.shards, self.row_R[unit])
        columns: Columns = {
            **describe_rows(rows),
            **score_baselines(rows, self.place_V, self.exclude_seen),
        }
        if self.backbone is not None:
            columns |= score_full(self.backbone, tiles, self.exclude_seen)
        if arms is not None:
            columns |= score_arms(self.network, tiles, arms, self.exclude_seen)
        return columns

    def compare(self, unit: slice, k: int) -> Agreement:
        """How the native executor's lists of `k` items agree with PyTorch's, on a unit's rows."""
        if self.native is None:
            self.native = NativeNetwork(
                self.network, self.shards.window - 1, level_of(self.executor)
            )
        _, tiles = read_tiles(self.shards, self.row_R[unit])
        return compare_unit(self.network, self.native, tiles, k, self.exclude_seen)

    def machine(self) -> Machine:
        """The machine that scores the rows."""
        return _machine(self.network)


class Timer:
    """Takes the times, alone on a node."""

    def __init__(self, job: Job) -> None:
        self.network = job.load()
        asked_for = job.config.evaluation.executor
        self.reason = why_no_native_executor(self.network, asked_for)
        self.level = level_of(asked_for) if self.reason is None else None
        if asked_for == "triton":
            self.network, self.reason = _with_triton_blocks(self.network)

    def executor(self) -> str:
        """The executor that is timed, for the conditions of a report."""
        if self.reason is not None:
            return f"PyTorch ({self.reason})"
        return describe_native_executor(self.level)

    def run(self, sample: TimingSample, plan: TimingPlan) -> dict[int, Times]:
        """Times by batch size."""
        sample = sample.to(self.network.device)
        make_stages = partial(native_stages, level=self.level) if self.reason is None else None
        return time_arms(self.network, sample, plan, make_stages=make_stages)

    def machine(self) -> Machine:
        """The machine that takes the times."""
        return _machine(self.network)


def _with_triton_blocks(network: SkipRecNetwork) -> tuple[SkipRecNetwork, str]:
    """The network with its blocks in the Triton kernel where that is possible, and how it runs."""
    if network.device.type != "cuda":
        return network, "the Triton kernel runs on a GPU"
    if find_spec("triton") is None:
        return network, "Triton is not installed"
    from skiprec.inference.triton_blocks import why_not_triton, with_triton_blocks

    unknown = why_not_triton(network)
    if unknown is not None:
        return network, f"the Triton kernel does not know {unknown}"
    return with_triton_blocks(network), "blocks in the Triton kernel"


def _machine(network: SkipRecNetwork) -> Machine:
    device = network.device
    is_cuda = device.type == "cuda"
    return {
        "device": torch.cuda.get_device_name(device) if is_cuda else "cpu",
        "cpu": cpu_model(),
        "threads": torch.get_num_threads(),
        "dtype": str(network.embedding.table.weight.dtype).removeprefix("torch."),
    }
