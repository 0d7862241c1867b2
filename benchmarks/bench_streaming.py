"""Measures training on shards that are ten times larger than the worker's memory limit."""

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
from pairing import conditions, interleaved, median_ratio, spread, verdict

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from cluster.machine.process import keep_freed_memory
from cluster.training.build import build_engine, build_network
from skiprec.config.files import parse_config
from skiprec.data.batching import TrainingReader
from skiprec.data.ingest import build_dataset, make_recipe
from skiprec.data.manifest import read_manifest, write_manifest
from skiprec.data.order import DataOrder
from skiprec.data.shards import ShardSet
from skiprec.training.collectives import SingleProcess
from skiprec.training.loop import run_step
from skiprec.training.plan import make_plan

ROWS, STEPS, WARMUP, TIMES, BOUND = 256, 60, 3, 10, 0.9
PART_READ = 5  # a fifth of the shards is read first, which is twice the limit
CGROUP_2, CGROUP_1 = Path("/sys/fs/cgroup"), Path("/sys/fs/cgroup/memory")


def build(folder: Path, num_bytes: int) -> Path:
    """Builds shards of at least `num_bytes` by copying the files of a small dataset repeatedly."""
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
    """Drops the files from the page cache, so that a reader really reads from the disk."""
    for file in path.iterdir():
        descriptor = os.open(file, os.O_RDONLY)
        os.fsync(descriptor)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(descriptor)


def serve(path: Path) -> None:
    """Reads a part of the shards in training order, then takes one step per line of standard input.

    Prints its measurements as one line of JSON each.
    """
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
    print_json(read_gb_per_s=num_steps * ROWS * 84 / read_s / 1e9)
    for step, _ in enumerate(
        sys.stdin, start=num_steps
    ):  # the steps read rows that were not read before
        run_step(settings, plan, engine, reader.micro_batches(step), SingleProcess(), step)
        status = Path("/proc/self/status").read_text().splitlines()
        private = next(int(line.split()[1]) for line in status if line.startswith("RssAnon"))
        print_json(private_mb=private / 1024)


def print_json(**measured: float) -> None:
    print(json.dumps(measured), flush=True)


@contextmanager
def memory_limit(limit_mb: int | None) -> Iterator[Path | None]:
    """A cgroup with a memory limit that includes the page cache; None if it cannot be created."""
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


@contextmanager
def trainer(path: Path, group: Path | None) -> Iterator[subprocess.Popen[str]]:
    """Starts a process that runs `serve`, inside a cgroup if there is one."""

    def enter() -> None:
        if group is not None:
            (group / "cgroup.procs").write_text(str(os.getpid()))

    process = subprocess.Popen(
        [sys.executable, __file__, "--serve", str(path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        preexec_fn=enter,
    )
    try:
        yield process
    finally:
        assert process.stdin is not None
        process.stdin.close()
        process.wait(60)


def answer(process: subprocess.Popen[str]) -> dict[str, float]:
    """The next measurement that a trainer prints."""
    assert process.stdout is not None
    measured: dict[str, float] = json.loads(process.stdout.readline())
    return measured


def step(process: subprocess.Popen[str]) -> dict[str, float]:
    """Makes a trainer take one step; returns its measurement."""
    assert process.stdin is not None
    process.stdin.write("\n")
    process.stdin.flush()
    return answer(process)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--serve", type=Path, help="steps over these shards, in this process")
    parser.add_argument("--limit-mb", type=int, default=768)
    arguments = parser.parse_args()
    if arguments.serve is not None:
        serve(arguments.serve)
        return 0
    limit = arguments.limit_mb
    print(
        f"a fifth of an epoch read, then steps of {ROWS} rows, 16 blocks of width 64, of two "
        f"processes in turns; {conditions()}"
    )
    with tempfile.TemporaryDirectory() as folder, memory_limit(limit) as group:
        small = build(Path(folder) / "small", 0)
        large = build(Path(folder) / "large", TIMES * limit * 2**20)
        size_mb = sum(file.stat().st_size for file in large.iterdir()) / 2**20
        with trainer(small, None) as free, trainer(large, group) as limited:
            answer(free)
            reads = answer(limited)["read_gb_per_s"]
            arms = {"small": lambda: step(free), "large": lambda: step(limited)}
            seconds = interleaved(arms, STEPS, WARMUP)
            private = step(limited)["private_mb"]
    rates = {name: [ROWS / spent for spent in times] for name, times in seconds.items()}
    print(
        f"  {size_mb:,.0f} MB of shards, {limit} MB "
        f"{'not enforced here' if group is None else 'for the process and its page cache'}: "
        f"{statistics.median(rates['large']):.0f} samples/s (small set, no limit: "
        f"{statistics.median(rates['small']):.0f}), reads {reads:.2f} GB/s, private memory "
        f"{private:.0f} MB"
    )
    ratio = median_ratio(rates["large"], rates["small"])
    print(f"  {ratio:.2f} of the small set [{spread(rates['large'], rates['small'])}] ", end="")
    print(verdict(ratio, BOUND))
    return int(ratio < BOUND or private > limit)


if __name__ == "__main__":
    sys.exit(main())
