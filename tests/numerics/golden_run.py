"""Prints the losses of a tiny run: `python -m tests.numerics.golden_run NAME`.

In float64, so that what differs between processors stays far below what a change of the
mathematics moves.
"""

import sys
from pathlib import Path

import torch

from skiprec.config.run import RunConfig
from skiprec.models.registry import BACKBONES, BASELINES
from skiprec.network import SkipRecNetwork
from skiprec.training.engine import TorchEngine
from skiprec.training.objective import Objective
from skiprec.training.optim import build_optimizer
from tests.testkit.networks import NUM_ITEMS, awaken, run_config
from tests.testkit.steps import CPU, Run

STEPS = 20
GOLDEN = Path(__file__).resolve().parents[1] / "golden"
COMMON = {
    "model__dropout": 0.1,
    "training__log_every_steps": 1,
    "training__learning_rate": 0.01,
    "training__warmup_steps": 3,
    "training__final_lr_frac": 0.1,
    "training__weight_decay": 0.01,
    "training__grad_clip_norm": 1.0,
}
BUDGET = {"policy__target_keep_frac": 0.3, "policy__budget_weight": 2.0}
SHARED = {"policy__budget": "shared", "policy__entropy_weight": 0.3}
GATHERED = {"training__execution": "gathered"}

SAMPLED = {"loss__kind": "sampled", "loss__num_negatives": 10}
ONE_LAYER = {"model__num_blocks": 1}

GOLDEN_CONFIGS = (
    {name: run_config(model__backbone=name, **COMMON) for name in sorted(BACKBONES)}
    | {
        name: run_config(model__backbone=name, **COMMON, **SAMPLED, **ONE_LAYER)
        for name in sorted(BASELINES)
    }
    | {
        "gumbel": run_config("gumbel", **COMMON, **BUDGET),
        "gumbel_shared": run_config("gumbel", **COMMON, **BUDGET, **SHARED),
        "reinforce": run_config("reinforce", **COMMON, **GATHERED, policy__entropy_weight=0.3),
        "cost": run_config("cost", **COMMON, **GATHERED),
        "sampled_softmax": run_config(**COMMON, **SAMPLED),
    }
)


def golden_losses(config: RunConfig, seed: int = 0) -> list[float]:
    """The training loss of each step; `awaken`, or blocks of scale 0 would hide what they do."""
    network = SkipRecNetwork(config.model, config.policy, NUM_ITEMS).double()
    network.reset_parameters(seed)
    awaken(network, seed)
    optimizer = build_optimizer(network, config.training)
    run = Run(config, total_steps=STEPS)
    run.go(TorchEngine(Objective(network, config), optimizer, config.training, CPU))
    return run.sink.values("train/loss")


def read_golden(name: str) -> list[float]:
    """The losses in a golden file; its first line is the command that wrote it."""
    return [float(line) for line in (GOLDEN / f"{name}.txt").read_text().splitlines()[1:]]


def main(argv: list[str]) -> int:
    torch.set_num_threads(1)
    (name,) = argv
    print(f"# .venv/bin/python -m tests.numerics.golden_run {name} > tests/golden/{name}.txt")
    for loss in golden_losses(GOLDEN_CONFIGS[name]):
        print(repr(loss))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
