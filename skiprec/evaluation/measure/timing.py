"""Times of the arms. One process takes them in turns, after a warm-up, with nothing beside it."""

import copy
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from skiprec.evaluation.measure.arms import (
    FIXED,
    FULL,
    MASKED,
    ORACLE,
    RANDOM,
    SHALLOW,
    SKIPREC,
    Arm,
    arm_named,
)
from skiprec.inference.executor import Decide, embed_requests, every_block, recommend
from skiprec.keyed_random import mix, permutation
from skiprec.network import SkipRecNetwork
from skiprec.types import Execution, KeepDecision

WARMUP_ROUNDS = 3
ORDER_SEED = 20260101

Clock = Callable[[], float]
Stage = Callable[[int], object]
# "<arm>/<part>" (`stage_name`) -> seconds of each round.
Seconds = dict[str, NDArray[np.float64]]


@dataclass(frozen=True)
class Times:
    """Seconds of each stage: right after another stage (cold), and right after itself (warm).

    A stage finds the caches as the stage before it has left them. Requests to one model come warm;
    a machine that does other things between them serves cold.
    """

    cold: Seconds
    warm: Seconds


# Timed parts of a request: the blocks; the policy and the blocks; all of it, end to end.
Part = Literal["blocks", "policy", "end"]


def stage_name(arm: Arm, part: Part) -> str:
    """The name of a timed stage in `Seconds` and in reports."""
    return f"{arm.name}/{part}"


def stage_named(name: str) -> tuple[Arm, str]:
    """The arm and the part of a timed stage."""
    arm, part = name.split("/")
    return arm_named(arm), part


@dataclass(frozen=True)
class TimingPlan:
    """The batch sizes and rounds of timing, and how requests are served.

    Args:
        batches: rows a call; each round takes the next batch of the sample, over and over.
        repeats: the least number of rounds; every row of the sample is in two rounds at least.
    """

    batches: tuple[int, ...]
    repeats: int
    k: int
    exclude_seen: bool

    def rounds(self, batch: int, num_rows: int) -> int:
        """The number of rounds at this batch size."""
        return max(self.repeats, 2 * -(-num_rows // batch))


@dataclass(frozen=True)
class TimingSample:
    """Rows at equal distances over the evaluated ones, with the decisions of some arms.

    `keep_ARL` holds the decisions of `arms`; a network without a policy has no arms.
    """

    items_RT: Tensor
    arms: tuple[Arm, ...]
    keep_ARL: Tensor
    times_RW: Tensor | None = None  # with the time of the request last; None without times

    def to(self, device: torch.device) -> "TimingSample":
        """The same rows on `device`."""
        times_RW = None if self.times_RW is None else self.times_RW.to(device)
        return TimingSample(self.items_RT.to(device), self.arms, self.keep_ARL.to(device), times_RW)


# (network, sample, plan, rows a call) -> the stages by name.
MakeStages = Callable[[SkipRecNetwork, TimingSample, TimingPlan, int], dict[str, Stage]]


@torch.inference_mode()
def time_arms(
    network: SkipRecNetwork,
    sample: TimingSample,
    plan: TimingPlan,
    clock: Clock = time.perf_counter,
    make_stages: MakeStages | None = None,
) -> dict[int, Times]:
    """Times by batch size. Round i of a stage runs next to round i of all other stages.

    Args:
        make_stages: makes the stages of an executor. None: of PyTorch.
    """
    times = {}
    for batch in plan.batches:
        rounds = plan.rounds(batch, len(sample.items_RT))
        stages = (make_stages or arm_stages)(network, sample, plan, batch)
        times[batch] = interleave(stages, rounds, _finisher(sample.items_RT.device), clock)
    return times


def interleave(
    stages: dict[str, Stage], rounds: int, finish: Callable[[], None], clock: Clock
) -> Times:
    """Seconds of every stage in every round, twice in a row: cold, then warm.

    Each round has an order of its own, so that no stage always finds the caches as one certain
    other stage has left them.

    Args:
        finish: waits until the device has finished its work.
    """
    names = list(stages)
    cold, warm = ({name: np.empty(rounds) for name in names} for _ in range(2))
    for index in range(-WARMUP_ROUNDS, rounds):
        order = permutation(mix(ORDER_SEED, index + WARMUP_ROUNDS), len(names))
        for name in (names[place] for place in order):
            for seconds in (cold, warm):
                finish()
                started = clock()
                stages[name](max(index, 0))
                finish()
                if index >= 0:
                    seconds[name][index] = clock() - started
    return Times(cold, warm)


def shallow_network(network: SkipRecNetwork, num_blocks: int) -> SkipRecNetwork:
    """The first blocks of a network as a network without a policy, which shares the weights."""
    shallow = copy.copy(network)
    shallow._modules = dict(network._modules)
    shallow.num_blocks = num_blocks
    shallow.policy = None
    make_stack = type(network.stack)  # so that the shallow network has the same executor
    shallow.stack = make_stack(list(network.stack.blocks)[:num_blocks]).eval()  # type: ignore[call-arg, arg-type]
    return shallow


def arm_stages(
    network: SkipRecNetwork, sample: TimingSample, plan: TimingPlan, batch: int
) -> dict[str, Stage]:
    """The stages to time by name; `FULL` is the reference of every ratio."""
    requests = Requests(network, sample, plan, batch)
    stages = {
        stage_name(FULL, "blocks"): requests.blocks(None, "dense"),
        stage_name(FULL, "end"): requests.end_to_end(network, None),
    }
    for depth in (network.model_config.exits or ())[:-1]:
        at_exit = shallow_network(network, depth)
        stages[stage_name(Arm("exit", depth), "blocks")] = requests.blocks(None, "dense", at_exit)
        stages[stage_name(Arm("exit", depth), "end")] = requests.end_to_end(at_exit, None)
    if network.policy is None:
        return stages
    for arm in (SKIPREC, RANDOM, FIXED):
        stages[stage_name(arm, "blocks")] = requests.blocks(arm, "gathered")
    stages[stage_name(MASKED, "blocks")] = requests.blocks(SKIPREC, "masked")
    stages[stage_name(SKIPREC, "policy")] = requests.policy_and_blocks()
    stages[stage_name(SKIPREC, "end")] = requests.end_to_end(network, None, SkipRecNetwork.decide)
    stages[stage_name(ORACLE, "end")] = requests.end_to_end(network, SKIPREC)
    for arm in (RANDOM, FIXED):
        stages[stage_name(arm, "end")] = requests.end_to_end(network, arm)
    mean_kept = sample.keep_ARL[sample.arms.index(SKIPREC)].sum(1).mean()
    shallow = shallow_network(network, round(float(mean_kept)))
    stages[stage_name(SHALLOW, "blocks")] = requests.blocks(None, "dense", shallow)
    stages[stage_name(SHALLOW, "end")] = requests.end_to_end(shallow, None)
    return stages


class Requests:
    """The batches of one size over a sample, embedded before the clock starts."""

    def __init__(
        self, network: SkipRecNetwork, sample: TimingSample, plan: TimingPlan, batch: int
    ) -> None:
        self.network, self.plan = network, plan
        num_rows = len(sample.items_RT)
        # The first rows fill up the last batch.
        num_calls = -(-num_rows // batch)
        row_N = torch.arange(num_calls * batch, device=sample.items_RT.device) % num_rows
        rows = row_N.view(num_calls, batch).unbind()
        times_RW = sample.times_RW
        self.items = [sample.items_RT[row_B] for row_B in rows]
        self.times = [None if times_RW is None else times_RW[row_B] for row_B in rows]
        self.histories = [
            embed_requests(network, items_BT, times_BW)
            for items_BT, times_BW in zip(self.items, self.times, strict=True)
        ]
        self.decisions = {
            arm: [KeepDecision(sample.keep_ARL[index, row_B].contiguous(), None) for row_B in rows]
            for index, arm in enumerate(sample.arms)
        }

    def blocks(
        self, arm: Arm | None, execution: Execution, network: SkipRecNetwork | None = None
    ) -> Stage:
        """The blocks alone, under the decisions of `arm`; None is every block."""
        chosen = network or self.network

        def run(index: int) -> object:
            place = index % len(self.items)
            decision = None if arm is None else self.decisions[arm][place]
            return chosen.encode_last(self.histories[place], decision, execution)

        return run

    def policy_and_blocks(self) -> Stage:
        """The policy, and the blocks that the policy keeps."""

        def run(index: int) -> object:
            history = self.histories[index % len(self.items)]
            return self.network.encode_last(history, self.network.decide(history), "gathered")

        return run

    def end_to_end(
        self, network: SkipRecNetwork, arm: Arm | None, decide: Decide = every_block
    ) -> Stage:
        """From item ids to the top-k list; the decisions of `arm`, if given, cost no time."""

        def run(index: int) -> object:
            place = index % len(self.items)
            given = None if arm is None else self.decisions[arm][place]
            how = decide if given is None else lambda network, history: given
            items_BT, times_BW = self.items[place], self.times[place]
            k, exclude_seen = self.plan.k, self.plan.exclude_seen
            return recommend(network, items_BT, k, exclude_seen, how, times_BW)

        return run


def _finisher(device: torch.device) -> Callable[[], None]:
    return torch.cuda.synchronize if device.type == "cuda" else lambda: None
