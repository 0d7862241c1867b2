"""Measures the service over HTTP: latencies by connections, and depth that follows the load.

    python benchmarks/bench_serving.py --picture docs/benchmarks/serving.png

The requests come from a second process (benchmarks/load.py) in an open loop: at moments that the
service cannot delay, and latencies count from these moments. They are rows of the test split of the
synthetic data, so the accuracy of the answers is measured, too. The model is that of the run of
jobs/configs/synthetic/deep_policy.toml, 128 blocks of width 128, which is trained first if it is
missing (40 minutes on 2 cores).
"""

import argparse
import contextlib
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pyarrow as pa
from load_picture import draw_load
from load_summary import Curve, Floats, Phases, Sent, difference, limit_by_arithmetic, summary_of
from pairing import conditions

from skiprec.data.shards import ShardSet
from skiprec.inference import Recommender
from skiprec.service.control import Point, Promise, usable_points
from skiprec.service.load_controller import measure_points
from skiprec.service.schema import RecommendRequest

ROOT = Path(__file__).resolve().parents[1]
RUN, DATA = Path("runs/synthetic/deep_policy"), Path("runs/data/synthetic")
PROMISE_MS = 100.0
PEAKS = (2.0, 3.5)  # of the load, as multiples of what all blocks can take
ENOUGH = 0.99  # of the requests within the promise
MANY = 2000  # connections, so that none waits for one
SWAPS, SWAP_S = 10, 2.0  # the service looks at the pointer each second


@dataclass(frozen=True)
class Requests:
    """Rows of the test split by original ids, each with the item that came next."""

    histories: list[list[str]]
    targets: list[str]


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", type=Path, help="another export of a model of this data")
    parser.add_argument("--picture", type=Path, help="where the picture over time goes")
    arguments = parser.parse_args(argv)
    model = arguments.model or exported_model()
    requests = test_requests(model)
    print(f"{model}; {conditions()}; {len(requests.targets):,} test rows")
    all_blocks, points = points_of(model)
    floods = [flood(model, keep, requests) for keep in (1.0, points[0].keep)]
    full, least = (one.requests_per_s for one in floods)
    print(f"over HTTP, requests/s: all blocks {full:.0f}, keep {points[0].keep:.3f} {least:.0f}")
    ratio = share_of_blocks(model, *floods, requests)
    curve = Curve(points, all_blocks, seconds_over_http(points, all_blocks, full, least))
    held = latencies_by_connections(model, full, requests)
    for times in PEAKS:
        picture = arguments.picture if times == PEAKS[0] else None
        held &= depth_follows_load(model, curve, full, times, requests, picture)
    return 0 if held and ratio >= 5 else 1


def exported_model() -> Path:
    """The export of the run, which is trained if it is missing."""
    export = ROOT / RUN / "export"
    if not (export / "manifest.json").exists():
        configs = "jobs/configs/synthetic"
        here = ["--set", "cluster.num_workers=0", "--set", "training.engine=torch"]
        for command in (
            ["jobs/pretrain_backbone.py", "--config", f"{configs}/deep.toml", *here],
            ["jobs/train_cost.py", "--config", f"{configs}/deep_policy.toml", *here],
            ["jobs/export_model.py", "--run", str(RUN), "--output", str(RUN / "export")],
        ):
            subprocess.run([sys.executable, *command], cwd=ROOT, check=True)
    return export


def test_requests(model: Path) -> Requests:
    """All test rows of the data that the model was trained on."""
    with pa.memory_map(str(model / "items.arrow")) as mapped:
        ids = pa.ipc.open_file(mapped).read_all()["id"].to_pylist()
    shards = ShardSet.open(ROOT / DATA, "test")
    items_RW = shards.slice(0, shards.num_rows).items_RW
    histories = [[ids[item - 1] for item in row[:-1] if item] for row in items_RW.tolist()]
    return Requests(histories, [ids[item - 1] for item in items_RW[:, -1].tolist()])


def points_of(model: Path) -> tuple[Point, tuple[Point, ...]]:
    """All blocks, and the points of the curve that are worth using, with their times here."""
    recommender = Recommender.load(model)
    self_test = json.loads((model / "self_test.json").read_text())
    points = measure_points(recommender, [case["history"] for case in self_test])
    usable = usable_points(points, Promise(PROMISE_MS))
    for point in (*usable, points[-1]):
        print(
            f"  keep {point.keep:.3f}: validation MRR@20 {point.mrr_at_20:.4f}, "
            f"{1000 * point.row_s:.2f} ms for a history in a batch of 32"
        )
    return points[-1], usable


def seconds_over_http(
    points: tuple[Point, ...], all_blocks: Point, full: float, least: float
) -> Floats:
    """Seconds of a request at each point, on the line through the two measured ends."""
    row_s = np.array([point.row_s for point in points])
    slope = (1 / full - 1 / least) / (all_blocks.row_s - points[0].row_s)
    return 1 / least + slope * (row_s - points[0].row_s)


@dataclass(frozen=True)
class Flood:
    """More requests than the service can answer: how many it answers, and their CPU time."""

    requests_per_s: float
    cpu_s: float


def flood(model: Path, keep: float, requests: Requests) -> Flood:
    """Requests that all come at once, on 64 connections; the median of three rounds."""
    count, rates, times = 600, [], []
    with served(model) as (process, address):
        for _ in range(3):
            before_s = cpu_seconds(process.pid)
            sent = send(address, np.zeros(count), requests, 64, {"keep": keep})
            assert set(sent["status"]) == {200}, set(sent["status"])
            rates.append(1000 * count / max(sent["latency_ms"]))
            times.append((cpu_seconds(process.pid) - before_s) / count)
    return Flood(float(np.median(rates)), float(np.median(times)))


def share_of_blocks(model: Path, full: Flood, least: Flood, requests: Requests) -> float:
    """How many times all blocks cost what HTTP and the head cost, in CPU time under load."""
    recommender = Recommender.load(model)
    keep = min(point.keep for point in recommender.spec.curve)
    rows = recommender.recommend(requests.histories[:600], keep=keep, explain=True)
    blocks = recommender.spec.shape["blocks"]
    fewest = float(np.mean([len(row.kept_blocks or ()) for row in rows]))
    block_s = (full.cpu_s - least.cpu_s) / (blocks - fewest)
    rest_s = full.cpu_s - blocks * block_s
    print(
        f"a request under load, CPU: all {blocks} blocks {1000 * blocks * block_s:.2f} ms, the "
        f"rest (HTTP, ids, policy, head) {1000 * rest_s:.2f} ms: {blocks * block_s / rest_s:.1f} "
        "times (at least 5)"
    )
    return blocks * block_s / rest_s


def latencies_by_connections(model: Path, capacity: float, requests: Requests) -> bool:
    """Latencies at half of the load that full depth can take, also while models are swapped.

    One connection takes one request at a time, so it gets an eighth of that load.
    """
    held = True
    with tempfile.TemporaryDirectory() as folder:
        pointer = Path(folder) / "current"
        pointer.write_text(str(model.resolve()))
        other = Path(folder) / "other"
        shutil.copytree(model, other)  # a link to the same folder would be no other model
        with served(None, "--pointer", str(pointer)) as (_, address):
            for swaps in (0, SWAPS):
                for connections in (1, 8, 64):
                    rate = capacity / (8 if connections == 1 else 2)
                    moments = poisson_moments(((SWAP_S * (SWAPS + 1), rate),), seed=connections)
                    plan = SwapPlan(pointer, [other, model.resolve()], swaps)
                    before = swaps_of(address)
                    sent = send(address, moments, requests, connections, {}, plan)
                    latency = np.array(sent["latency_ms"])
                    errors = len(moments) - sent["status"].count(200)
                    swapped = swaps_of(address) - before
                    held &= errors == 0 and swapped == swaps
                    half, most = np.quantile(latency, (0.5, 0.99))
                    print(
                        f"{connections:3d} connections, {swapped:2d} swaps: "
                        f"{len(moments) / moments[-1]:5.0f} requests/s, p50 {half:6.1f} ms, "
                        f"p99 {most:6.1f} ms, {errors} errors",
                        flush=True,
                    )
    return held


def depth_follows_load(
    model: Path,
    curve: Curve,
    full: float,
    times: float,
    requests: Requests,
    picture: Path | None,
) -> bool:
    """One load on all blocks, on fixed depths down to one that holds, and on the controller.

    Args:
        full: requests a second that all blocks can take; the peak has `times` as many.
    """
    phases = ((12, 0.6 * full), (16, times * full), (12, 0.6 * full))
    moments = poisson_moments(phases, seed=7)
    rates = ", ".join(f"{seconds} s at {rate:.0f} requests/s" for seconds, rate in phases)
    print(f"the peak is {times:g} times what all blocks take: {rates}; promise {PROMISE_MS:g} ms")
    found: dict[str, Sent] = {}

    def measure(name: str, options: list[str], body: dict[str, Any]) -> dict[str, float]:
        with served(model, *options) as (_, address):
            found[name] = send(address, moments, requests, MANY, body | {"explain": True})
        print_arm(name, found[name], (*curve.points, curve.all_blocks))
        return summary_of(found[name], PROMISE_MS)

    measure("all blocks", [], {"keep": 1.0})
    fits = [point for point, seconds in curve.pairs if times * full * seconds < 1]
    for point in reversed(fits or [curve.points[0]]):
        rival = f"fixed depth, keep {point.keep:.3f}"
        if measure(rival, [], {"keep": point.keep})["kept_promise"] >= ENOUGH:
            break
    ours = measure("controller", ["--latency-slo-ms", str(PROMISE_MS)], {})
    limit = limit_by_arithmetic(curve, phases)
    print(f"  limit by arithmetic: MRR@20 {limit:.4f} on validation rows")
    gain, error = difference(found["controller"], found[rival], len(requests.targets))
    print(f"  controller less {rival}: MRR@20 {gain:+.4f}, standard error {error:.4f}")
    if picture is not None:
        shown = {name: found[name] for name in ("all blocks", rival, "controller")}
        draw_load(picture, moments, shown, PROMISE_MS)
    return ours["answered"] == 1 and ours["kept_promise"] >= ENOUGH and gain > 2 * error


def print_arm(name: str, sent: Sent, points: tuple[Point, ...]) -> None:
    """One line of the table."""
    of_keep = {point.keep: point.mrr_at_20 for point in points}
    expected = [of_keep[keep] for keep in sent["keep"] if keep is not None]
    numbers = summary_of(sent, PROMISE_MS)
    print(
        f"  {name}: answered {100 * numbers['answered']:.1f} %, within the promise "
        f"{100 * numbers['kept_promise']:.1f} %, p99 {numbers['p99_ms']:.0f} ms, mean blocks "
        f"{numbers['blocks']:.1f}, MRR@20 expected {np.mean(expected):.4f}, measured "
        f"{numbers['mrr_of_answers']:.4f} of answers and {numbers['mrr']:.4f} of requests",
        flush=True,
    )


def poisson_moments(phases: Phases, seed: int) -> Floats:
    """Moments of requests, in seconds, at the rates of the phases (seconds, requests a second)."""
    generator = np.random.default_rng(seed)
    start_s, parts = 0.0, []
    for length_s, rate in phases:
        count = generator.poisson(length_s * rate)
        parts.append(start_s + np.sort(generator.uniform(0, length_s, count)))
        start_s += length_s
    return np.concatenate(parts)


@dataclass(frozen=True)
class SwapPlan:
    """Models that take over while requests come, so many times."""

    pointer: Path
    folders: list[Path]
    swaps: int


def send(
    address: str,
    moments_s: Floats,
    requests: Requests,
    connections: int,
    body: dict[str, Any],
    plan: SwapPlan | None = None,
) -> Sent:
    """What load.py reports of these requests."""
    assert RecommendRequest(histories=[[]], **body)
    row_N = np.arange(len(moments_s)) % len(requests.targets)
    content = {
        "connections": connections,
        "moments_s": moments_s.tolist(),
        "histories": [requests.histories[row] for row in row_N],
        "targets": [requests.targets[row] for row in row_N],
        "body": {"k": 20, "exclude_seen": False, **body},
    }
    with tempfile.TemporaryDirectory() as folder:
        files = [Path(folder) / name for name in ("plan.json", "sent.json")]
        files[0].write_text(json.dumps(content))
        command = [sys.executable, str(ROOT / "benchmarks/load.py"), "--address", address]
        command += ["--plan", str(files[0]), "--output", str(files[1])]
        with subprocess.Popen(command) as process:
            for index in range(plan.swaps if plan else 0):
                time.sleep(moments_s[-1] / (plan.swaps + 1))
                draft = plan.pointer.with_suffix(".draft")
                draft.write_text(str(plan.folders[index % 2]))
                draft.replace(plan.pointer)
        assert process.returncode == 0
        sent: Sent = json.loads(files[1].read_text())
    return sent


@contextlib.contextmanager
def served(model: Path | None, *options: str) -> Iterator[tuple["subprocess.Popen[str]", str]]:
    """The service as a process of its own, and its address."""
    given = () if model is None else ("--model", str(model))
    command = [sys.executable, "jobs/serve_model.py", "--port", "0", *given, *options]
    with (
        tempfile.TemporaryFile("w+") as log,
        subprocess.Popen(
            command, cwd=ROOT, stdout=subprocess.PIPE, stderr=log, text=True
        ) as process,
    ):
        assert process.stdout is not None
        try:
            line = process.stdout.readline()
            if " answers at " not in line:
                log.seek(0)
                raise RuntimeError(f"the service did not start: {log.read()}")
            yield process, line.split(" answers at ")[1].strip()
        finally:
            process.terminate()
            try:
                process.wait(60)
            except subprocess.TimeoutExpired:
                process.kill()


def swaps_of(address: str) -> int:
    """How many models have taken the place of another."""
    text = httpx.get(f"{address}/metrics").raise_for_status().text
    return int(float(text.split("\nskiprec_model_swaps_total ")[1].split()[0]))


def cpu_seconds(pid: int) -> float:
    """CPU time that a process has taken."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / 100


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
