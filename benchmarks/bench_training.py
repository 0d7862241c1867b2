"""Measures the cost of DeepSpeed on one worker, and the gain from a second worker.

The workers are real processes with a process group, without Ray.
"""

import statistics
import sys
import tempfile
import time
from pathlib import Path

import torch
from pairing import conditions, median_ratio, spread, verdict

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from cluster.machine.process import keep_freed_memory
from cluster.training.build import build_engine, build_network
from skiprec.config.files import parse_config
from skiprec.config.run import RunConfig
from skiprec.data.batching import TrainingReader
from skiprec.data.ingest import build_dataset, make_recipe
from skiprec.data.order import DataOrder
from skiprec.data.shards import ShardSet
from skiprec.training.collectives import Collectives, ProcessGroup, SingleProcess
from skiprec.training.engine import Engine
from skiprec.training.loop import run_step
from skiprec.training.plan import make_plan
from tests.testkit.ranks import run_ranks

ROWS, WINDOW, STEPS, ROUNDS = 256, 20, 3, 12
BOUND_ENGINE, BOUND_SCALING = 0.85, 0.85
PRODUCT = (4864, 192, 64)


def config(data: Path, engine: str, num_workers: int, rows: int = ROWS) -> RunConfig:
    return parse_config(
        {
            "name": "bench",
            "data": {"path": str(data)},
            "model": {"num_blocks": 16, "width": 64},
            "training": {"global_batch_rows": rows, "engine": engine},
            "cluster": {"num_workers": num_workers},
        },
        "benchmark",
    )


def prepare(settings: RunConfig, comm: Collectives) -> tuple[Engine, TrainingReader]:
    shards = ShardSet.open(Path(settings.data.path), "train")
    rows = settings.training.global_batch_rows
    reader = TrainingReader(
        shards, DataOrder(0, shards.num_rows), rows, comm.world_size, comm.rank, None
    )
    network = build_network(settings, shards.num_items)
    return build_engine(settings, network, reader, torch.device("cpu")), reader


def time_steps(
    settings: RunConfig, engine: Engine, reader: TrainingReader, comm: Collectives
) -> float:
    """Seconds for STEPS whole training steps, including reading the rows."""
    plan = make_plan(settings.training, reader.shards.num_rows)
    started = time.perf_counter()
    for step in range(STEPS):
        run_step(settings, plan, engine, reader.micro_batches(step), comm, step)
    return time.perf_counter() - started


def engines_in_turn(data: Path) -> dict[str, list[float]]:
    """Seconds of both engines in one process; they take turns, round by round."""
    torch.set_num_threads(2)
    keep_freed_memory()
    comm = SingleProcess()
    arms = {}
    for name in ("torch", "deepspeed"):
        settings = config(data, name, 1)
        arms[name] = (settings, *prepare(settings, comm))
    seconds: dict[str, list[float]] = {name: [] for name in arms}
    for round_ in range(ROUNDS + 2):
        for name, (settings, engine, reader) in arms.items():
            taken = time_steps(settings, engine, reader, comm)
            if round_ >= 2:
                seconds[name].append(taken)
    return seconds


def product_s() -> float:
    """Seconds for 100 matrix products of the shape PRODUCT."""
    a, b = torch.randn(PRODUCT[:2]), torch.randn(PRODUCT[1:])
    started = time.perf_counter()
    for _ in range(100):
        a @ b
    return time.perf_counter() - started


def one_and_two_workers(data: Path) -> dict[str, list[float]]:
    """Seconds per round of rank 0 alone and of both ranks, for training and for bare products."""
    comm = ProcessGroup()
    torch.set_num_threads(1)
    keep_freed_memory()
    both = prepare(config(data, "deepspeed", 2), comm)
    alone_settings, both_settings = config(data, "torch", 1), config(data, "deepspeed", 2)
    weak_settings = config(data, "deepspeed", 2, 2 * ROWS)
    weak = prepare(weak_settings, comm)
    alone = prepare(alone_settings, SingleProcess())
    seconds: dict[str, list[float]] = {
        name: [] for name in ("one", "two", "two, twice the rows", "product_1", "product_2")
    }

    def together(taken: float) -> float:
        """The seconds of the slower rank; also a barrier."""
        return comm.gather(torch.tensor([taken])).max().item()

    for round_ in range(ROUNDS + 2):
        rows = {
            "one": together(
                time_steps(alone_settings, *alone, SingleProcess()) if comm.rank == 0 else 0.0
            ),
            "two": together(time_steps(both_settings, *both, comm)),
            "two, twice the rows": together(time_steps(weak_settings, *weak, comm)),
            "product_1": together(product_s() if comm.rank == 0 else 0.0),
            "product_2": together(product_s()),
        }
        if round_ >= 2:
            for name, taken in rows.items():
                seconds[name].append(taken)
    return seconds


def main() -> int:
    keep_freed_memory()
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "data"
        recipe = make_recipe(
            {
                "name": "bench",
                "window": WINDOW,
                "source": {"kind": "synthetic", "num_users": 2000, "items_per_category": 250},
                "split": {"kind": "by_user"},
            },
            {},
            origin="benchmark",
        )
        build_dataset(recipe, [], data, progress=lambda _: None)
        print(
            f"whole training steps of {ROWS} rows: 16 blocks of width 64, window {WINDOW}, full "
            f"softmax over 3,000 items, float32, ZeRO 0; {conditions()}"
        )
        engines = run_ranks(engines_in_turn, 1, data)[0]
        workers = run_ranks(one_and_two_workers, 2, data)[0]
    per_s = {
        name: STEPS * ROWS / statistics.median(taken) for name, taken in (engines | workers).items()
    }
    ratio = median_ratio(engines["torch"], engines["deepspeed"])
    print(
        f"  one worker, 2 threads: torch {per_s['torch']:.0f} samples/s, DeepSpeed "
        f"{per_s['deepspeed']:.0f}: {ratio:.2f} "
        f"[{spread(engines['torch'], engines['deepspeed'])}] {verdict(ratio, BOUND_ENGINE)}"
    )
    scaling = median_ratio(workers["one"], workers["two"])
    weak = [
        2 * one / two
        for one, two in zip(workers["one"], workers["two, twice the rows"], strict=True)
    ]
    products = [
        2 * one / two for one, two in zip(workers["product_1"], workers["product_2"], strict=True)
    ]
    reach = statistics.median(products)
    share = scaling / reach
    print(
        f"  strong scaling, 1 thread each, {ROWS} rows: one worker {per_s['one']:.0f} samples/s, "
        f"two {per_s['two']:.0f}: "
        f"{scaling:.2f} times [{spread(workers['one'], workers['two'])}]; two bare products at "
        f"once reach {reach:.2f}: {share:.2f} of it {verdict(share, BOUND_SCALING)}"
    )
    weak_share = statistics.median(weak) / reach
    print(
        f"  weak scaling, {ROWS} rows each: two workers {statistics.median(weak):.2f} times one: "
        f"{weak_share:.2f} of it {verdict(weak_share, BOUND_SCALING)}"
    )
    return int(ratio < BOUND_ENGINE or share < BOUND_SCALING)


if __name__ == "__main__":
    sys.exit(main())
