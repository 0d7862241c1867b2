"""Measures what training every exit costs: a step with `model.exits` against a plain step."""

import statistics
import sys
from functools import partial
from typing import Any

import torch
from pairing import conditions, interleaved, median_ratio, spread

from cluster.machine.process import keep_freed_memory
from skiprec.config.files import parse_config
from skiprec.network import SkipRecNetwork
from skiprec.training.collectives import SingleProcess
from skiprec.training.engine import TorchEngine
from skiprec.training.loop import run_step
from skiprec.training.objective import Objective
from skiprec.training.optim import build_optimizer
from skiprec.training.plan import StepPlan
from skiprec.types import Batch

ITEMS, ROWS, REPEATS = 3000, 128, 12
EXITS = [2, 4, 8, 16]
BOUND = 1.6
# Windows of ML-1M and of chess; norms stand before the head on both sides.
ARMS: dict[str, dict[str, Any]] = {
    "plain": {"model": {"final_norm": True}},
    "exits": {"model": {"exits": EXITS}},
    "exits that add up": {"model": {"exits": EXITS, "exit_readouts": True}},
    "exits, all of them at all positions": {
        "model": {"exits": EXITS},
        "loss": {"exits_per_step": "all", "exit_positions": 1.0},
    },
}


def steps(sections: dict[str, Any], batch: Batch) -> partial[object]:
    """A function that makes one whole step on the same rows."""
    config = parse_config(
        {
            "name": "bench",
            "data": {"path": "unused"},
            "training": {"engine": "torch", "global_batch_rows": len(batch.items_BW)},
            **sections,
            "model": {"num_blocks": EXITS[-1], "width": 64, **sections["model"]},
        },
        "benchmark",
    )
    network = SkipRecNetwork(config.model, config.policy, ITEMS)
    network.reset_parameters(0)
    objective, training = Objective(network, config), config.training
    optimizer = build_optimizer(network, training)
    engine = TorchEngine(objective, optimizer, training, torch.device("cpu"))
    plan = StepPlan(total_steps=2, log_every=1, validate_every=None, checkpoint_every=None)
    return partial(run_step, config, plan, engine, [batch], SingleProcess(), 1)


def main() -> int:
    torch.set_num_threads(1)
    keep_freed_memory()
    print(
        f"whole steps of {ROWS} rows, 16 blocks of width 64, exits {EXITS}, full softmax over "
        f"{ITEMS:,} items, float32; {conditions()}"
    )
    failed = False
    for window in (20, 50):
        generator = torch.Generator().manual_seed(window)
        items_BW = torch.randint(1, ITEMS + 1, (ROWS, window), generator=generator)
        batch = Batch(items_BW, torch.arange(ROWS))
        arms = {name: steps(sections, batch) for name, sections in ARMS.items()}
        seconds = interleaved(arms, REPEATS)
        for name in list(ARMS)[1:]:
            ratio = median_ratio(seconds[name], seconds["plain"])
            bound = f"at most {BOUND}" if name == "exits" else "no bound"
            failed |= name == "exits" and ratio > BOUND
            print(
                f"  window {window}: {name}: {ratio:.2f} times a plain step "
                f"[{spread(seconds[name], seconds['plain'])}] ({bound}); plain "
                f"{statistics.median(seconds['plain']) * 1e3:.0f} ms",
                flush=True,
            )
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
