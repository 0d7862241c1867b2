"""Measures batch scoring: users a second of the whole job against the executor alone.

    python benchmarks/bench_scoring.py

The model is that of bench_serving.py. The users are random histories of its items, so many that the
executor alone takes over a minute; the job also starts Ray, sorts the users on disk and writes
Parquet. The executor alone has one process on each CPU, and its table in memory.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet
from bench_serving import ROOT, exported_model
from pairing import conditions

from skiprec.inference import Recommender

AT_ONCE = 4096
ENOUGH = 0.8


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", type=Path, help="another exported model")
    parser.add_argument("--users", type=int, default=200_000, help="(default: 200000)")
    arguments = parser.parse_args(argv)
    model = arguments.model or exported_model()
    cpus = os.cpu_count() or 1
    print(f"{model}; {conditions()}; {arguments.users:,} users, {cpus} CPUs")
    with tempfile.TemporaryDirectory() as folder:
        users = Path(folder) / "users.parquet"
        write_users(users, model, arguments.users)
        alone_s = seconds_alone(model, users, cpus)
        job_s = seconds_of_the_job(model, users, Path(folder) / "recs")
    print(f"executor alone: {arguments.users / alone_s:,.0f} users/s, {alone_s:.0f} s")
    print(f"the whole job: {arguments.users / job_s:,.0f} users/s, {job_s:.0f} s")
    print(f"ratio {alone_s / job_s:.2f} (at least {ENOUGH})")
    return 0 if alone_s / job_s >= ENOUGH else 1


def write_users(path: Path, model: Path, count: int) -> None:
    """Users with 5 to 20 items each."""
    generator = np.random.default_rng(0)
    with pa.memory_map(str(model / "items.arrow")) as mapped:
        ids = pa.ipc.open_file(mapped).read_all()["id"].cast(pa.string()).combine_chunks()
    length_U = generator.integers(5, 21, count)
    starts = np.concatenate([[0], np.cumsum(length_U)]).astype(np.int32)
    items = ids.take(pa.array(generator.integers(0, len(ids), starts[-1])))
    names = pa.array(np.arange(count)).cast(pa.string())
    histories = pa.ListArray.from_arrays(pa.array(starts), items)
    pyarrow.parquet.write_table(pa.table({"user": names, "items": histories}), path)


def seconds_alone(model: Path, users: Path, cpus: int) -> float:
    """Wall time in which one process a CPU answers all users; loading is not counted."""
    with ProcessPoolExecutor(cpus) as pool:
        parts = [(model, users, part, cpus) for part in range(cpus)]
        spans = list(pool.map(answer_part, parts))
    return max(end for _, end in spans) - min(start for start, _ in spans)


def answer_part(given: tuple[Path, Path, int, int]) -> tuple[float, float]:
    """When a process has begun and ended to answer its share of the users."""
    model, users, part, parts = given
    recommender = Recommender.load(model)
    histories = pyarrow.parquet.read_table(users)["items"].combine_chunks()
    size = -(-len(histories) // parts)
    own = histories.slice(part * size, size)
    start_s = time.monotonic()
    for start in range(0, len(own), AT_ONCE):
        recommender.recommend_table(own.slice(start, AT_ONCE), k=20)
    return start_s, time.monotonic()


def seconds_of_the_job(model: Path, users: Path, output: Path) -> float:
    """Wall time of the command."""
    command = [sys.executable, "jobs/recommend_users.py", "--model", str(model)]
    command += ["--input", str(users), "--output", str(output), "--row-holds", "history"]
    command += ["--user-column", "user", "--item-column", "items"]
    start_s = time.monotonic()
    subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    return time.monotonic() - start_s


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
