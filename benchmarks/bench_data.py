"""Measures the build of shards from a generated file of the size of ml-latest, and their reader.

Each build runs in its own process with the command of a user, and time and peak memory are those of
that process. Further builds, with a quarter of the users and with the lines shuffled, show how
memory depends on the input; one has a time for each item, a split by time, rows that end anywhere,
and no repeats. All files are in a temporary folder outside of the repository.
"""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv
from pairing import conditions

from skiprec.data.manifest import read_manifest
from skiprec.data.shards import ShardSet

ROOT = Path(__file__).parents[1]
NUM_RATINGS, NUM_USERS, NUM_ITEMS = 27_750_000, 283_000, 54_000
USERS_A_PIECE = 10_000
WITH_TIMES = (
    "times=true",
    "source.time_unit=s",
    'split={kind = "by_time", evaluation_ends = "random", max_ends = 3}',
    "filters.drop_repeats=all",
)
QUARTER, FULL = "quarter, by user", "full, by user"
LIMIT_S, LIMIT_GB, LIMIT_GROWTH = 180, 4.0, 1.1
# Arrow's parser reads ahead, by more blocks in one build than in the next. That adds up to 0.05 GB
# to the peak of some builds of any size, so growth compares the smallest peaks of so many builds.
GROWTH_BUILDS = 3
# Training of 16 blocks of width 64, full softmax, 2 cores: 41,674 windows in 55 s.
TRAINING_ROWS_A_SECOND, LIMIT_READER = 760, 50


def write_ratings(path: Path, num_users: int, *, shuffled: bool) -> int:
    """Writes a ratings.csv in the layout of GroupLens and returns its number of rows.

    Rows are sorted by user, and times have no order within a user. Activity is log-normal and
    popularity falls as 1 / rank, as in the real file.
    """
    rng = np.random.default_rng(0)
    activity_U = rng.lognormal(0.0, 1.4, num_users)
    wanted = NUM_RATINGS * num_users // NUM_USERS
    length_U = np.maximum(1, np.round(activity_U / activity_U.sum() * wanted)).astype(np.int64)
    popularity = np.cumsum(1.0 / np.arange(1, NUM_ITEMS + 1))
    rows = 0
    schema = pa.schema([(name, pa.int64()) for name in ("userId", "movieId")])
    schema = schema.append(pa.field("rating", pa.float64()))
    schema = schema.append(pa.field("timestamp", pa.int64()))
    with pyarrow.csv.CSVWriter(str(path), schema) as writer:
        for start in range(0, num_users, USERS_A_PIECE):
            length = length_U[start : start + USERS_A_PIECE]
            count = int(length.sum())
            user = np.repeat(np.arange(start + 1, start + 1 + len(length)), length)
            if shuffled:  # rows of a user may be anywhere in the file
                user = rng.integers(1, num_users + 1, count)
            item = np.searchsorted(popularity, rng.random(count) * popularity[-1]) * 3 + 1
            stars = rng.integers(1, 11, count) / 2
            when = rng.integers(789_652_009, 1_537_945_149, count)
            columns = [pa.array(values) for values in (user, item, stars, when)]
            writer.write_batch(pa.record_batch(columns, schema=schema))
            rows += count
    return rows


def build(ratings: Path, output: Path, settings: tuple[str, ...]) -> tuple[float, float]:
    """(seconds, peak memory in GB) of build_interactions.py in its own process."""
    script, recipe = ROOT / "datasets/build_interactions.py", ROOT / "datasets/recipes"
    command = [sys.executable, script, "--recipe", recipe / "slides_ml20.toml"]
    command += ["--input", ratings, "--output", output]
    command += [part for setting in settings for part in ("--set", setting)]
    started = time.perf_counter()
    child = subprocess.Popen(
        [str(part) for part in command],
        stdout=subprocess.DEVNULL,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    # VmHWM only grows, so the last value read is the peak. ru_maxrss would include the peak of this
    # process, which Linux carries over exec.
    peak_kb = 0
    while child.poll() is None:
        peak_kb = max(peak_kb, status_kb(child.pid, "VmHWM"))
        time.sleep(0.05)
    if child.returncode:
        raise SystemExit(f"the build of {ratings} failed with code {child.returncode}")
    return time.perf_counter() - started, peak_kb / 2**20


def status_kb(pid: int, field: str) -> int:
    """A field of /proc/PID/status in kB; 0 once the process has ended."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith(f"{field}:")), 0)


def read(folder: Path) -> tuple[float, float, float]:
    """(rows/s in random batches of 256, rows/s in sequence, growth of private memory in MB).

    Private memory is not backed by a file; the kernel can take mapped pages of a file back.
    """
    shards = ShardSet.open(folder, "train")
    rng = np.random.default_rng(0)
    batches = [rng.integers(0, shards.num_rows, 256) for _ in range(2000)]
    before = status_kb(os.getpid(), "RssAnon")
    started = time.perf_counter()
    for row_R in batches:
        shards.take(row_R)
    at_random = 256 * len(batches) / (time.perf_counter() - started)
    started = time.perf_counter()
    for start in range(0, shards.num_rows - 255, 256):
        shards.slice(start, start + 256)
    in_sequence = shards.num_rows / (time.perf_counter() - started)
    return at_random, in_sequence, (status_kb(os.getpid(), "RssAnon") - before) / 1024


def check(name: str, value: float, limit: float, *, at_least: bool = False) -> bool:
    """Prints and returns whether a number holds its limit."""
    holds = value >= limit if at_least else value <= limit
    bound = f"{'at least' if at_least else 'at most'} {limit:g}"
    print(f"{name:34}{value:10.2f}  {'ok' if holds else 'MISSED'} ({bound})")
    return holds


def main() -> int:
    print(conditions(window=20, recipe="slides_ml20"))
    print(f"{'input':24}{'rows':>12}{'s':>8}{'rows/s':>12}{'peak GB':>9}{'output rows':>13}")
    seconds, peak, smallest, readers = {}, {}, {}, {}
    with tempfile.TemporaryDirectory(prefix="bench-data-") as temporary:
        for name, num_users, shuffled, settings in (
            (QUARTER, NUM_USERS // 4, False, ()),
            (FULL, NUM_USERS, False, ()),
            ("full, with times", NUM_USERS, False, WITH_TIMES),
            ("full, shuffled", NUM_USERS, True, ()),
        ):
            ratings, output = Path(temporary) / "ratings.csv", Path(temporary) / name
            rows = write_ratings(ratings, num_users, shuffled=shuffled)
            seconds[name], peak[name] = build(ratings, output, settings)
            if name in (QUARTER, FULL):
                again = [
                    build(ratings, output.with_suffix(f".{i}"), settings)
                    for i in range(1, GROWTH_BUILDS)
                ]
                smallest[name] = min(peak[name], *(peak_gb for _, peak_gb in again))
            made = sum(split.rows for split in read_manifest(output).splits.values())
            rate = rows / seconds[name]
            print(
                f"{name:24}{rows:12,}{seconds[name]:8.1f}{rate:12,.0f}{peak[name]:9.2f}{made:13,}"
            )
            readers[name] = read(output)
    growth = smallest[FULL] / smallest[QUARTER]
    passed = [
        check("seconds, full, by user", seconds[FULL], LIMIT_S),
        check("peak GB, full, by user", peak[FULL], LIMIT_GB),
        check("seconds, full, with times", seconds["full, with times"], LIMIT_S),
        check("peak GB, full, with times", peak["full, with times"], LIMIT_GB),
        check("seconds, full, shuffled", seconds["full, shuffled"], LIMIT_S),
        check("peak GB, full, shuffled", peak["full, shuffled"], LIMIT_GB),
        check("peak memory, full / quarter", growth, LIMIT_GROWTH),
    ]
    for name, (at_random, in_sequence, added) in readers.items():
        print(
            f"reader, {name}: {at_random:,.0f} rows/s in random batches of 256, "
            f"{in_sequence:,.0f} in sequence; private memory +{added:.1f} MB"
        )
    ratio = readers[FULL][0] / TRAINING_ROWS_A_SECOND
    passed.append(check("reader / training, rows/s", ratio, LIMIT_READER, at_least=True))
    return 0 if all(passed) else 1


if __name__ == "__main__":
    sys.exit(main())
