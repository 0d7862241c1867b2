"""Training on shards ten times larger than the memory that the worker may use."""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from pairing import conditions, median_ratio, spread, verdict

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from cluster.process import keep_freed_memory
from cluster.worker import build_engine, build_network
from skiprec.config_files import parse_config
from skiprec.data.batching import TrainingReader
from skiprec.data.build import build_dataset, make_recipe
from skiprec.data.manifest import read_manifest, write_manifest
from skiprec.data.order import DataOrder
from skiprec.data.shards import ShardSet
from skiprec.training.collectives import SingleProcess
from skiprec.training.loop import run_step
from skiprec.training.plan import make_plan

ROWS, STEPS, ROUNDS, TIMES, BOUND = 256, 30, 3, 10, 0.9
PART_READ = 5  # a fifth of the set, twice the limit
CGROUP_2, CGROUP_1 = Path("/sys/fs/cgroup"), Path("/sys/fs/cgroup/memory")


def build(folder: Path, num_bytes: int) -> Path:
    """Shards of at least `num_bytes`: the files of a small set, again and again."""
    source = {"kind": "synthetic", "num_users": 20_000, "min_length": 200, "max_length": 200}
    recipe = make_recipe(
        {"name": "bench", "window": 20, "source": source, "split": {"kind": "by_user"}},
        {},
        origin="benchmark",
    )
    path = folder / "shards"
    build_dataset(recipe, [], path, progress=lambda _: None)
    manifest = read_manifest(path)
    first = manifest.splits["train"].files
    files, size = list(first), sum(file.bytes for file in first)
    while size < num_bytes:
        for file in first:
            name = f"train-copy-{len(files):05d}.arrow"
            shutil.copyfile(path / file.name, path / name)
            files.append(file.model_copy(update={"name": name}))
            size += file.bytes
    rows = sum(file.rows for file in files)
    train = manifest.splits["train"].model_copy(update={"files": tuple(files), "rows": rows})
    write_manifest(path, manifest.model_copy(update={"splits": manifest.splits | {"train": train}}))
    forget(path)
    return path


def forget(path: Path) -> None:
    """Takes the files out of the page cache, so that a reader pays for what it reads."""
    for file in path.iterdir():
        descriptor = os.open(file, os.O_RDONLY)
        os.fsync(descriptor)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(descriptor)


def train(path: Path) -> dict[str, float]:
    """Reads some times the limit in the order of training, then trains all over the set."""
    torch.set_num_threads(2)
    keep_freed_memory()
    shards = ShardSet.open(path, "train")
    order = DataOrder(0, shards.num_rows)
    settings = parse_config(
        {
            "name": "bench",
            "data": {"path": str(path)},
            "model": {"num_blocks": 16, "width": 64},
            "training": {"global_batch_rows": ROWS, "engine": "torch", "epochs": 1},
        },
        "benchmark",
    )
    reader = TrainingReader(shards, order, ROWS, 1, 0, None)
    network = build_network(settings, shards.num_items)
    engine = build_engine(settings, network, reader, torch.device("cpu"))
    plan = make_plan(settings.training, shards.num_rows)
    started = time.perf_counter()
    num_steps = plan.total_steps // PART_READ
    for step in range(num_steps):
        reader.micro_batches(step)
    read_s = time.perf_counter() - started
    seconds = []
    for index in range(STEPS):
        started = time.perf_counter()
        step = index * plan.total_steps // STEPS  # all over the set
        run_step(settings, plan, engine, reader.micro_batches(step), SingleProcess(), step)
        seconds.append(time.perf_counter() - started)
    status = Path("/proc/self/status").read_text().splitlines()
    private = next(int(line.split()[1]) for line in status if line.startswith("RssAnon")) / 1024
    return {
        "samples_per_s": ROWS / statistics.median(seconds),
        "read_gb_per_s": num_steps * ROWS * 84 / read_s / 1e9,
        "private_mb": private,
    }


@contextmanager
def memory_limit(limit_mb: int | None) -> Iterator[Path | None]:
    """A cgroup of that many MB, page cache included; None where this user cannot make one."""
    parent = CGROUP_1 if CGROUP_1.is_dir() else CGROUP_2
    name = "memory.limit_in_bytes" if parent == CGROUP_1 else "memory.max"
    group = parent / f"bench-{os.getpid()}"
    if limit_mb is None:
        yield None
        return
    try:
        group.mkdir()
        (group / name).write_text(str(limit_mb * 2**20))
    except OSError:
        yield None
        return
    try:
        yield group
    finally:
        group.rmdir()


def in_a_process(path: Path, limit_mb: int | None) -> tuple[dict[str, float], bool]:
    command = [sys.executable, __file__, "--train", str(path)]
    with memory_limit(limit_mb) as group:

        def enter() -> None:
            if group is not None:
                (group / "cgroup.procs").write_text(str(os.getpid()))

        done = subprocess.run(command, check=True, capture_output=True, preexec_fn=enter)
        return json.loads(done.stdout), group is not None


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--train", type=Path, help="one measurement, in this process")
    parser.add_argument("--limit-mb", type=int, default=768)
    arguments = parser.parse_args()
    if arguments.train is not None:
        print(json.dumps(train(arguments.train)))
        return 0
    limit = arguments.limit_mb
    print(
        f"a fifth of an epoch read, then steps of {ROWS} rows, 16 blocks of width 64; "
        f"{conditions()}"
    )
    with tempfile.TemporaryDirectory() as folder:
        small = build(Path(folder) / "small", 0)
        large = build(Path(folder) / "large", TIMES * limit * 2**20)
        size_mb = sum(file.stat().st_size for file in large.iterdir()) / 2**20
        rates: dict[str, list[float]] = {"small": [], "large": []}
        for _ in range(ROUNDS):
            rates["small"].append(in_a_process(small, None)[0]["samples_per_s"])
            forget(large)
            found, is_limited = in_a_process(large, limit)
            rates["large"].append(found["samples_per_s"])
            print(
                f"  {size_mb:,.0f} MB of shards, {limit} MB "
                f"{'for the process and its page cache' if is_limited else 'not enforced here'}: "
                f"{found['samples_per_s']:.0f} samples/s (small set, no limit: "
                f"{rates['small'][-1]:.0f}), reads {found['read_gb_per_s']:.2f} GB/s, "
                f"private memory {found['private_mb']:.0f} MB"
            )
    ratio = median_ratio(rates["large"], rates["small"])
    print(f"  {ratio:.2f} of the small set [{spread(rates['large'], rates['small'])}] ", end="")
    print(verdict(ratio, BOUND))
    return int(ratio < BOUND or found["private_mb"] > limit)


if __name__ == "__main__":
    sys.exit(main())
