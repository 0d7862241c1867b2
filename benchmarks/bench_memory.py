"""Compares a worker's memory at each ZeRO stage with the arithmetic of footprint.py.

The arithmetic is in cluster/training/footprint.py.
"""

import gc
import os
import sys
from pathlib import Path

import torch
from pairing import conditions

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from cluster.training.build import build_engine, build_network
from cluster.training.deepspeed_engine import prepare_process
from cluster.training.footprint import count_weights, footprint
from skiprec.config.files import parse_config
from skiprec.config.run import RunConfig
from skiprec.data.batching import TrainingReader
from skiprec.training.collectives import ProcessGroup
from skiprec.training.loop import run_step
from skiprec.training.plan import make_plan
from skiprec.types import Batch
from tests.testkit.ranks import run_ranks

BLOCKS, WIDTH, ITEMS, ROWS, WORKERS = (24, 48), 512, 1000, 8, 2
BOUND = 0.1


def config(precision: str, zero_stage: int, num_blocks: int) -> RunConfig:
    return parse_config(
        {
            "name": "bench",
            "data": {"path": "unused"},
            "model": {"num_blocks": num_blocks, "width": WIDTH},
            "training": {
                "global_batch_rows": WORKERS * ROWS,
                "precision": precision,
                "activation_checkpointing": True,  # keeps activations small beside weights
            },
            "cluster": {"num_workers": WORKERS, "zero_stage": zero_stage},
        },
        "benchmark",
    )


class RandomReader:
    passes, world_size = 1, WORKERS

    def batch(self, step: int) -> Batch:
        generator = torch.Generator().manual_seed(step)
        items_BW = torch.randint(1, ITEMS + 1, (ROWS, 20), generator=generator)
        return Batch(items_BW, torch.arange(ROWS))


def of_process(name: str) -> int:
    """Bytes of a field of /proc/self/status."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name))


def held_tensors() -> int:
    """Bytes of all live tensors on the CPU; each storage counts once."""
    gc.collect()
    storages = {}
    for tensor in [thing for thing in gc.get_objects() if isinstance(thing, torch.Tensor)]:
        for part in (tensor, tensor.grad if tensor.is_leaf else None):
            if part is not None and part.device.type == "cpu":
                storage = part.untyped_storage()
                storages[storage.data_ptr()] = storage.nbytes()
    return sum(storages.values())


def measure(precision: str, zero_stage: int, num_blocks: int) -> tuple[float, float]:
    """(bytes held between two steps, peak bytes of private memory in a step) of this rank."""
    prepare_process(use_gpu=False)
    import deepspeed  # noqa: F401  # imported first, so that its memory is not measured

    settings, reader, comm = (
        config(precision, zero_stage, num_blocks),
        RandomReader(),
        ProcessGroup(),
    )
    before = of_process("RssAnon")
    network = build_network(settings, ITEMS)
    seen: TrainingReader = reader  # type: ignore[assignment]
    engine = build_engine(settings, network, seen, torch.device("cpu"))
    plan = make_plan(settings.training, 1000)
    for step in range(3):
        if step == 2:
            held = held_tensors()
            Path("/proc/self/clear_refs").write_text("5")  # resets the peak
        run_step(settings, plan, engine, [reader.batch(step)], comm, step)
    return held, of_process("VmHWM") - of_process("RssFile") - before


def main() -> int:
    # Freed tensors must be returned to the kernel at once, or the peak would include earlier use.
    os.environ |= {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
    few, many = (count_weights(config("fp32", 0, n), ITEMS) for n in BLOCKS)
    print(
        f"bytes a weight on one of {WORKERS} workers, from {BLOCKS[0]} to {BLOCKS[1]} blocks of "
        f"width {WIDTH} ({few.dense / 1e6:.0f} to {many.dense / 1e6:.0f} M); {conditions()}"
    )
    print("  precision  ZeRO | held: arithmetic, measured | peak: arithmetic, measured | fixed MB")
    worst = 0.0
    for precision in ("fp32", "bf16"):
        for stage in range(4):
            settings = config(precision, stage, BLOCKS[1])
            expected = footprint(settings, many, WORKERS)
            held = sum(expected.held.values()) / many.dense
            peak = expected.peak / many.dense
            small, large = (
                run_ranks(measure, WORKERS, precision, stage, blocks)[0] for blocks in BLOCKS
            )
            held_here, peak_here = (
                (b - a) / (many.dense - few.dense) for a, b in zip(small, large, strict=True)
            )
            fixed_mb = (large[1] - peak_here * many.dense) / 1e6
            worst = max(worst, abs(held_here / held - 1), abs(peak_here / peak - 1))
            print(
                f"  {precision:9s}  {stage:4d} | {held:16.2f} {held_here:9.2f} "
                f"| {peak:16.2f} {peak_here:9.2f} | {fixed_mb:8.0f}"
            )
    verdict = "ok" if worst < BOUND else "ABOVE"
    print(f"  largest difference {worst:.0%}: {verdict} (below {BOUND:.0%})")
    return int(worst >= BOUND)


if __name__ == "__main__":
    sys.exit(main())
