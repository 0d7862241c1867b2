"""Measures a training step against the size of the catalogue.

Item tables are trained with sparse updates (sparse_adam) or by AdamW.
"""

import math
import statistics
import sys
from pathlib import Path

import torch
from pairing import conditions, interleaved, median_ratio, spread

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from cluster.machine.process import keep_freed_memory
from cluster.training.build import build_engine, build_network
from skiprec.config.files import parse_config
from skiprec.config.run import RunConfig
from skiprec.data.batching import TrainingReader
from skiprec.training.collectives import SingleProcess
from skiprec.training.loop import run_step
from skiprec.training.plan import make_plan
from skiprec.types import Batch
from tests.testkit.ranks import run_ranks

ROWS, WINDOW, WIDTH, BLOCKS, NEGATIVES = 256, 20, 64, 16, 1000
CATALOGUES = (10_000, 100_000, 1_000_000)
BOUND = 1.5


class ZipfReader:
    """New random rows for each step; items follow Zipf's law, as in real data."""

    passes, world_size = 1, 1

    def __init__(self, num_items: int):
        self.num_items = num_items

    def micro_batches(self, step: int) -> list[Batch]:
        generator = torch.Generator().manual_seed(step)
        u_BW = torch.rand(ROWS, WINDOW, generator=generator, dtype=torch.float64)
        items_BW = torch.exp(u_BW * math.log(self.num_items + 1)).long().clamp(1, self.num_items)
        return [Batch(items_BW, torch.arange(ROWS))]


def config(item_optimizer: str | None) -> RunConfig:
    training = {"global_batch_rows": ROWS} | (
        {} if item_optimizer is None else {"item_optimizer": item_optimizer}
    )
    return parse_config(
        {
            "name": "bench",
            "data": {"path": "unused"},
            "model": {"num_blocks": BLOCKS, "width": WIDTH},
            "loss": {"kind": "sampled", "num_negatives": NEGATIVES},
            "training": training,
        },
        "benchmark",
    )


class Arm:
    """An engine with its data; each call of `step` takes the next step."""

    def __init__(self, num_items: int, item_optimizer: str | None):
        self.config = config(item_optimizer)
        self.reader = ZipfReader(num_items)
        network = build_network(self.config, num_items)
        reader: TrainingReader = self.reader  # type: ignore[assignment]
        self.engine = build_engine(self.config, network, reader, torch.device("cpu"))
        self.plan, self.done = make_plan(self.config.training, 1_000_000), 0

    def step(self) -> None:
        batches = self.reader.micro_batches(self.done)
        run_step(self.config, self.plan, self.engine, batches, SingleProcess(), self.done)
        self.done += 1


def all_arms() -> dict[str, list[float]]:
    torch.set_num_threads(2)
    keep_freed_memory()
    arms = {f"sparse_adam {n}": Arm(n, "sparse_adam") for n in CATALOGUES}
    arms |= {f"AdamW {n}": Arm(n, None) for n in CATALOGUES}
    return interleaved({name: arm.step for name, arm in arms.items()}, repeats=15, warmup=3)


def main() -> int:
    print(
        f"a step of {ROWS} rows on DeepSpeed, ZeRO 0: {BLOCKS} blocks of width {WIDTH}, window "
        f"{WINDOW}, {NEGATIVES} negatives, items by Zipf's law, float32; {conditions()}"
    )
    seconds = run_ranks(all_arms, 1)[0]
    first = f"sparse_adam {CATALOGUES[0]}"
    for name, taken in seconds.items():
        optimizer, items = name.split()
        print(
            f"  {int(items):9,d} items, {optimizer:11s}: {statistics.median(taken) * 1e3:6.0f} ms, "
            f"{median_ratio(taken, seconds[first]):5.2f} of the first line "
            f"[{spread(taken, seconds[first])}]"
        )
    growth = median_ratio(seconds[f"sparse_adam {CATALOGUES[-1]}"], seconds[first])
    held = "ok" if growth < BOUND else "ABOVE"
    print(f"  sparse_adam grows {growth:.2f} times over the catalogues: {held} (below {BOUND})")
    return int(growth >= BOUND)


if __name__ == "__main__":
    sys.exit(main())
