"""Measures the rows per second of the reader against training, and its memory on larger data."""

import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import psutil
import torch
from pairing import conditions, verdict

from cluster.machine.process import keep_freed_memory
from skiprec.config.model import ModelConfig
from skiprec.data.batching import TrainingReader
from skiprec.data.ingest import build_dataset, make_recipe
from skiprec.data.order import DataOrder
from skiprec.data.shards import ShardSet
from skiprec.network import SkipRecNetwork
from skiprec.policy.kinds import policy_section

ROWS, WINDOW, BOUND = 256, 20, 50.0
USERS = {"small": 5_000, "ten times": 50_000}


def build(folder: Path, num_users: int) -> Path:
    source = {"kind": "synthetic", "num_users": num_users, "min_length": 200, "max_length": 200}
    recipe = make_recipe(
        {"name": "bench", "window": WINDOW, "source": source, "split": {"kind": "by_user"}},
        {},
        origin="benchmark",
    )
    path = folder / str(num_users)
    build_dataset(recipe, [], path, progress=lambda _: None)
    return path


def read(path: Path) -> tuple[float, int, float]:
    """(rows per second over one epoch, number of rows, growth of private memory in MB)."""
    shards = ShardSet.open(path, "train")
    order = DataOrder(0, shards.num_rows)
    reader = TrainingReader(shards, order, ROWS, world_size=1, rank=0, micro_batch_rows=None)
    steps = shards.num_rows // ROWS
    reader.micro_batches(0)
    before = psutil.Process().memory_full_info().uss
    started = time.perf_counter()
    for step in range(steps):
        reader.micro_batches(step)
    seconds = time.perf_counter() - started
    grown = psutil.Process().memory_full_info().uss - before
    return steps * ROWS / seconds, shards.num_rows, grown / 2**20


def training_rows_per_s() -> float:
    """Rows per second that two cores train at a small shape: 16 blocks of width 64, no head."""
    torch.set_num_threads(2)
    network = SkipRecNetwork(ModelConfig(num_blocks=16, width=64), policy_section("none"), 1000)
    network.reset_parameters(0)
    items_BT = torch.from_numpy(np.random.default_rng(0).integers(1, 1001, (ROWS, WINDOW - 1)))
    history = network.embed(items_BT, torch.arange(ROWS))
    rates = []
    for _ in range(8):
        started = time.perf_counter()
        network.encode(history, None, "dense").sum().backward(retain_graph=True)
        rates.append(ROWS / (time.perf_counter() - started))
    return max(rates)


def main() -> int:
    keep_freed_memory()
    if (
        len(sys.argv) > 1
    ):  # One reading in a separate process, so that its memory is measured alone.
        print(*read(Path(sys.argv[1])))
        return 0
    print(f"reader: batches of {ROWS} rows of {WINDOW}, in shuffled order, one process")
    consumed = training_rows_per_s()
    print(f"training consumes {consumed:.0f} rows/s (blocks alone, 16 of width 64; {conditions()})")
    worst, growth = float("inf"), []
    with tempfile.TemporaryDirectory() as folder:
        for name, num_users in USERS.items():
            path = build(Path(folder), num_users)
            command = [sys.executable, __file__, str(path)]
            out = subprocess.run(command, check=True, capture_output=True, text=True).stdout
            rate, rows, grown_mb = map(float, out.split())
            worst = min(worst, rate / consumed)
            growth.append(grown_mb)
            print(
                f"  {name:10s} {rows:9.0f} rows: {rate:9.0f} rows/s, {rate / consumed:.0f} times "
                f"what training consumes; private memory grew by {grown_mb:.1f} MB in an epoch"
            )
    print(f"reader over training: {worst:.0f} {verdict(worst, BOUND)}")
    return int(worst < BOUND)


if __name__ == "__main__":
    sys.exit(main())
