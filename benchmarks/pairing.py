"""Times several variants (arms) in turns in one process, so that drift affects all alike."""

import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch


def interleaved(
    arms: dict[str, Callable[[], object]], repeats: int, warmup: int = 2
) -> dict[str, list[float]]:
    """Seconds of each run of each arm; run i of an arm is next to run i of the others in time."""
    for _ in range(warmup):
        for arm in arms.values():
            arm()
    seconds: dict[str, list[float]] = {name: [] for name in arms}
    for _ in range(repeats):
        for name, arm in arms.items():
            started = time.perf_counter()
            arm()
            seconds[name].append(time.perf_counter() - started)
    return seconds


def median_ratio(numerator: list[float], denominator: list[float]) -> float:
    """Median of the ratios of paired runs."""
    return statistics.median(a / b for a, b in zip(numerator, denominator, strict=True))


def spread(numerator: list[float], denominator: list[float]) -> str:
    """First and third quartile of the ratios of paired runs."""
    ratios = [a / b for a, b in zip(numerator, denominator, strict=True)]
    low, _, high = statistics.quantiles(ratios, n=4)
    return f"{low:.2f}..{high:.2f}"


def conditions(**extra: object) -> str:
    """The conditions of a measurement, in one line: CPU, version of torch, threads and `extra`."""
    model = next(
        (
            line.split(":", 1)[1].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        ),
        platform.machine(),
    )
    parts = {"cpu": model, "torch": torch.__version__, "threads": torch.get_num_threads(), **extra}
    return ", ".join(f"{name} {value}" for name, value in parts.items())


def verdict(value: float, bound: float) -> str:
    """A note whether a ratio holds its bound."""
    return f"{'ok' if value >= bound else 'BELOW'} (at least {bound})"
