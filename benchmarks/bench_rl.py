"""Measures steps of SkipRec-RL with gathered against masked execution of the blocks.

A step has three forward passes and one backward pass. Gathered execution skips blocks in all of
them, so the blocks alone should reach most of the ideal factor 1 / keep. The whole step also has
the loss over the catalogue, two rankings, the policy and the optimizer.
"""

import statistics
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from pairing import conditions, interleaved, median_ratio, spread, verdict

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from cluster.machine.process import keep_freed_memory
from skiprec.config.files import parse_config
from skiprec.config.run import RunConfig
from skiprec.network import SkipRecNetwork
from skiprec.training.collectives import SingleProcess
from skiprec.training.engine import TorchEngine
from skiprec.training.loop import run_step
from skiprec.training.objective import Objective
from skiprec.training.optim import build_optimizer
from skiprec.training.plan import StepPlan
from skiprec.types import Batch, Execution, History, KeepDecision

ROWS, WINDOW, NUM_ITEMS, KEEP = 256, 20, 3416, 0.5
REPEATS = 25
# By arithmetic the whole step should be 1.6 times as fast: at keep 0.5, a step has 19 GFLOP in
# blocks and 6 GFLOP in scores.
BOUND_BLOCKS, BOUND_STEP = 0.7, 1.2
EXECUTIONS: tuple[Execution, ...] = ("masked", "gathered")
PLAN = StepPlan(total_steps=1, log_every=1, validate_every=None, checkpoint_every=None)


def config(execution: Execution) -> RunConfig:
    return parse_config(
        {
            "name": "bench",
            "data": {"path": "unused"},
            "model": {"num_blocks": 16, "width": 64},
            "policy": {"kind": "reinforce", "initial_keep_prob": KEEP},
            "training": {"engine": "torch", "global_batch_rows": ROWS, "execution": execution},
        },
        "benchmark",
    )


def random_rows() -> Batch:
    generator = torch.Generator().manual_seed(0)
    items_BW = torch.randint(1, NUM_ITEMS + 1, (ROWS, WINDOW), generator=generator)
    return Batch(items_BW, torch.randint(2**62, (ROWS,), generator=generator))


def fresh_network(execution: Execution) -> SkipRecNetwork:
    settings = config(execution)
    network = SkipRecNetwork(settings.model, settings.policy, NUM_ITEMS)
    network.reset_parameters(0)
    return network


def blocks_alone(
    network: SkipRecNetwork, history: History, decisions: list[KeepDecision], execution: Execution
) -> None:
    """The two forward passes for the rewards, then the forward and backward pass of the loss."""
    with torch.no_grad():
        for decision in decisions:
            network.encode(history, decision, execution, call_every_block=True)
    sampled = decisions[0]
    network.encode(history, sampled, execution, call_every_block=True).sum().backward()
    network.zero_grad()


def whole_step(execution: Execution, batch: Batch) -> Callable[[], object]:
    settings, network = config(execution), fresh_network(execution)
    optimizer = build_optimizer(network, settings.training)
    # With a learning rate of 0, both arms keep the same blocks in every repeat.
    for group in optimizer.param_groups:
        group["base_lr"] = 0.0
    engine = TorchEngine(
        Objective(network, settings), optimizer, settings.training, torch.device("cpu")
    )
    return partial(run_step, settings, PLAN, engine, [batch], SingleProcess(), 0)


def report(name: str, times: dict[str, list[float]]) -> float:
    ratio = median_ratio(times["masked"], times["gathered"])
    print(
        f"  {name:12s} masked {statistics.median(times['masked']) * 1e3:7.1f} ms, gathered "
        f"{statistics.median(times['gathered']) * 1e3:7.1f} ms: {ratio:.2f} times "
        f"[{spread(times['masked'], times['gathered'])}]"
    )
    return ratio


def measure() -> bool:
    """Prints both ratios; returns whether one missed its bound."""
    network, batch = fresh_network("masked"), random_rows()
    with torch.no_grad():
        history = network.embed_batch(batch)
        sampled, greedy = network.decide(history, 0.0), network.decide(history)
    assert sampled is not None
    assert greedy is not None
    kept = [decision.keep_BL.mean().item() for decision in (sampled, greedy)]
    print(f"{conditions()}, keep {kept[0]:.2f} sampled, {kept[1]:.2f} deterministic")
    blocks = report(
        "blocks alone",
        interleaved(
            {
                name: partial(blocks_alone, network, history, [sampled, greedy], name)
                for name in EXECUTIONS
            },
            REPEATS,
        ),
    )
    # The work is that of five forward passes, since a backward pass counts as two. Four of them
    # follow the sampled decision.
    share = blocks * (4 * kept[0] + kept[1]) / 5
    print(f"  of the ideal factor on the blocks: {share:.2f} {verdict(share, BOUND_BLOCKS)}")
    step = report(
        "whole step",
        interleaved({name: whole_step(name, batch) for name in EXECUTIONS}, REPEATS),
    )
    print(f"  the whole step: {verdict(step, BOUND_STEP)}")
    return share < BOUND_BLOCKS or step < BOUND_STEP


def main() -> int:
    keep_freed_memory()
    print(
        f"RL steps: 16 blocks, width 64, window {WINDOW}, batch {ROWS}, {NUM_ITEMS} items, "
        "float32, eager; arms in turn"
    )
    failed = False
    for threads in (1, 2):
        torch.set_num_threads(threads)
        failed |= measure()
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
