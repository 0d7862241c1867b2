"""Timing of several arms in one process, in turns, so that a drifting machine drifts for all."""

import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch


def interleaved(
    arms: dict[str, Callable[[], object]], repeats: int, warmup: int = 2
) -> dict[str, list[float]]:
    """Seconds of each run of each arm; run i of every arm happened next to run i of the others."""
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
    """Median over the pairs."""
    return statistics.median(a / b for a, b in zip(numerator, denominator, strict=True))


def spread(numerator: list[float], denominator: list[float]) -> str:
    """Quartiles of the paired ratios."""
    ratios = [a / b for a, b in zip(numerator, denominator, strict=True)]
    low, _, high = statistics.quantiles(ratios, n=4)
    return f"{low:.2f}..{high:.2f}"


def conditions(**extra: object) -> str:
    """One line that every table carries."""
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
    """Whether a ratio holds its bound."""
    return f"{'ok' if value >= bound else 'BELOW'} (at least {bound})"
