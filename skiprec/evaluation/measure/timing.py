"""Times of the arms, taken alone: one process, in turns, after a warm-up, never beside others."""

import copy
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from skiprec.inference.executor import Decide, embed_requests, every_block, recommend
from skiprec.keyed_random import mix, permutation
from skiprec.models.stack import BlockStack
from skiprec.network import SkipRecNetwork
from skiprec.types import Execution, KeepDecision

WARMUP_ROUNDS = 3
ORDER_SEED = 20260101

Clock = Callable[[], float]
Stage = Callable[[int], object]
# "<arm>/<what>" -> seconds of each round. What: blocks, policy (with the blocks), end (to end).
Seconds = dict[str, NDArray[np.float64]]


@dataclass(frozen=True)
class TimingPlan:
    """What is timed, and how it is served.

    Args:
        batches: rows a call; a round takes the next such batch of the sample, over and over.
        repeats: rounds at least; and enough of them for every row of the sample to be in two.
    """

    batches: tuple[int, ...]
    repeats: int
    k: int
    exclude_seen: bool

    def rounds(self, batch: int, num_rows: int) -> int:
        """Rounds at this batch size."""
        return max(self.repeats, 2 * -(-num_rows // batch))


@dataclass(frozen=True)
class TimingSample:
    """Rows at equal distances over the evaluated ones, with their arms' decisions.

    `keep_ARL` holds the arms `names`; a network without a policy has none.
    """

    items_RT: Tensor
    names: tuple[str, ...]
    keep_ARL: Tensor


@torch.inference_mode()
def time_arms(
    network: SkipRecNetwork,
    sample: TimingSample,
    plan: TimingPlan,
    clock: Clock = time.perf_counter,
) -> dict[int, Seconds]:
    """Seconds by batch size. Round i of a stage happened next to round i of all others."""
    times = {}
    for batch in plan.batches:
        rounds = plan.rounds(batch, len(sample.items_RT))
        stages = arm_stages(network, sample, plan, batch)
        times[batch] = interleave(stages, rounds, _finisher(sample.items_RT.device), clock)
    return times


def interleave(
    stages: dict[str, Stage], rounds: int, finish: Callable[[], None], clock: Clock
) -> Seconds:
    """Runs every stage once a round, each round in an order of its own, so that no stage has the
    caches as the same other one leaves them.

    Args:
        finish: waits until the device has done what was asked of it.
    """
    names = list(stages)
    seconds = {name: np.empty(rounds) for name in names}
    for index in range(-WARMUP_ROUNDS, rounds):
        order = permutation(mix(ORDER_SEED, index + WARMUP_ROUNDS), len(names))
        for name in (names[place] for place in order):
            finish()
            started = clock()
            stages[name](max(index, 0))
            finish()
            if index >= 0:
                seconds[name][index] = clock() - started
    return seconds


def shallow_network(network: SkipRecNetwork, num_blocks: int) -> SkipRecNetwork:
    """The first blocks of a network as a static net without a policy; weights are shared."""
    shallow = copy.copy(network)
    shallow._modules = dict(network._modules)
    shallow.num_blocks = num_blocks
    shallow.policy = None
    shallow.stack = BlockStack(list(network.stack.blocks)[:num_blocks]).eval()
    return shallow


def arm_stages(
    network: SkipRecNetwork, sample: TimingSample, plan: TimingPlan, batch: int
) -> dict[str, Stage]:
    """`full` is the reference of every ratio: all blocks, no policy."""
    requests = _Requests(network, sample, plan, batch)
    stages = {
        "full/blocks": requests.blocks(None, "dense"),
        "full/end": requests.end_to_end(network, None),
    }
    if network.policy is None:
        return stages
    for name in ("skiprec", "random", "fixed"):
        stages[f"{name}/blocks"] = requests.blocks(name, "gathered")
    stages["masked/blocks"] = requests.blocks("skiprec", "masked")
    stages["skiprec/policy"] = requests.policy_and_blocks()
    stages["skiprec/end"] = requests.end_to_end(network, None, SkipRecNetwork.decide)
    stages["oracle/end"] = requests.end_to_end(network, "skiprec")
    for name in ("random", "fixed"):
        stages[f"{name}/end"] = requests.end_to_end(network, name)
    mean_kept = sample.keep_ARL[sample.names.index("skiprec")].sum(1).mean()
    shallow = shallow_network(network, round(float(mean_kept)))
    stages["shallow/blocks"] = requests.blocks(None, "dense", shallow)
    stages["shallow/end"] = requests.end_to_end(shallow, None)
    return stages


class _Requests:
    """The batches of one size over a sample, embedded before the clock starts."""

    def __init__(
        self, network: SkipRecNetwork, sample: TimingSample, plan: TimingPlan, batch: int
    ) -> None:
        self.network, self.plan = network, plan
        num_rows = len(sample.items_RT)
        # Rows that are left over share a batch with the first ones, again.
        num_calls = -(-num_rows // batch)
        row_N = torch.arange(num_calls * batch, device=sample.items_RT.device) % num_rows
        rows = row_N.view(num_calls, batch).unbind()
        self.items = [sample.items_RT[row_B] for row_B in rows]
        self.histories = [embed_requests(network, items_BT) for items_BT in self.items]
        self.decisions = {
            name: [KeepDecision(sample.keep_ARL[index, row_B].contiguous(), None) for row_B in rows]
            for index, name in enumerate(sample.names)
        }

    def blocks(
        self, arm: str | None, execution: Execution, network: SkipRecNetwork | None = None
    ) -> Stage:
        """The blocks only; arm None decides nothing."""
        chosen = network or self.network

        def run(index: int) -> object:
            place = index % len(self.items)
            decision = None if arm is None else self.decisions[arm][place]
            return chosen.encode(self.histories[place], decision, execution)

        return run

    def policy_and_blocks(self) -> Stage:
        """The policy, and the blocks it keeps."""

        def run(index: int) -> object:
            history = self.histories[index % len(self.items)]
            return self.network.encode(history, self.network.decide(history), "gathered")

        return run

    def end_to_end(
        self, network: SkipRecNetwork, arm: str | None, decide: Decide = every_block
    ) -> Stage:
        """From item ids to the top-k list; the decisions of `arm`, if given, come for free."""

        def run(index: int) -> object:
            place = index % len(self.items)
            given = None if arm is None else self.decisions[arm][place]
            how = decide if given is None else lambda network, history: given
            return recommend(network, self.items[place], self.plan.k, self.plan.exclude_seen, how)

        return run


def _finisher(device: torch.device) -> Callable[[], None]:
    return torch.cuda.synchronize if device.type == "cuda" else lambda: None
