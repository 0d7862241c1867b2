"""Reports what this machine offers and what would make a run hang or fail; it changes nothing."""

import json
import os
import platform
import shutil
import time
from importlib import metadata
from pathlib import Path
from typing import Any, get_args

import psutil
import torch

from skiprec.evaluation.measure.arms import BASELINES as UNTRAINED
from skiprec.evaluation.measure.arms import REPORTED, TIMED_ONLY
from skiprec.inference.native.library import levels as native_levels
from skiprec.models.growth import Growth
from skiprec.models.registry import BACKBONES, BASELINES
from skiprec.policy.encoders import ENCODERS
from skiprec.policy.kinds import KINDS, NO_POLICY

PACKAGES = ("torch", "ray", "deepspeed", "pyarrow", "numpy", "pydantic", "tensorboard")
PRODUCT_ROWS, PRODUCT_WIDTH = 4864, 64  # one convolution of batch 256 at width 64, window 20
LEAST_MEMORY_GB, LEAST_DISK_GB = 4.0, 5.0


def components(repository: Path) -> dict[str, list[str]]:
    """The names of all components, by kind: backbones, policies, jobs, recipes and so on."""
    return {
        "backbones": sorted(BACKBONES),
        "baselines": sorted(BASELINES),
        "baselines_without_training": [arm.name for arm in UNTRAINED],
        "policies": sorted(set(KINDS) - {NO_POLICY}),
        "encoders": sorted(ENCODERS),
        "evaluation_arms": [arm.name for arm in (*REPORTED, *TIMED_ONLY)],
        "training": ["one_stage", "two_stage", "frozen_backbone", "stochastic_depth", "growth"],
        "growth": sorted(get_args(Growth)),
        "jobs": _stems(repository / "jobs", "*.py"),
        "studies": _stems(repository / "jobs/studies", "*.toml"),
        "recipes": _stems(repository / "datasets/recipes", "*.toml"),
    }


def _stems(folder: Path, pattern: str) -> list[str]:
    return sorted(path.stem for path in folder.glob(pattern))


def describe() -> list[tuple[str, str]]:
    """(name, value) for each property of this machine, for a person to read."""
    memory, disk = psutil.virtual_memory(), shutil.disk_usage(".")
    lines = [("python", platform.python_version())]
    lines += [(name, _version(name)) for name in PACKAGES]
    lines += [
        ("cpu", f"{os.cpu_count()} cores, {_gflops():.0f} GFLOP/s in a float32 matrix product"),
        ("gpu", torch.cuda.get_device_name() if torch.cuda.is_available() else "none"),
        ("memory", f"{memory.available / 2**30:.1f} of {memory.total / 2**30:.1f} GB free"),
        ("disk here", f"{disk.free / 2**30:.1f} of {disk.total / 2**30:.1f} GB free"),
        ("compiler", shutil.which("g++") or "none: torch.compile is out of reach, nothing else"),
        ("native", _native_executor()),
    ]
    return lines


def _native_executor() -> str:
    """The instruction sets of the native executor on this machine, or why there is none."""
    try:
        return f"executor for {', '.join(native_levels())}"
    except FileNotFoundError as error:
        return f"no executor: {error}; requests run in PyTorch"


def problems() -> list[str]:
    """One message, with a remedy, for each condition that would make a run hang or fail."""
    messages = []
    for name in PACKAGES:
        if _version(name) == "missing":
            messages.append(f"{name} is not installed; run: make install")
    for lock in stale_locks():
        messages.append(
            f"{lock} is left from a build that was killed; DeepSpeed would wait for it for ever. "
            f"Remove it: rm {lock}"
        )
    memory_gb = psutil.virtual_memory().available / 2**30
    if memory_gb < LEAST_MEMORY_GB:
        messages.append(
            f"{memory_gb:.1f} GB of memory free, a run needs about {LEAST_MEMORY_GB:.0f}"
        )
    disk_gb = shutil.disk_usage(".").free / 2**30
    if disk_gb < LEAST_DISK_GB:
        messages.append(f"{disk_gb:.1f} GB of disk free here, runs need about {LEAST_DISK_GB:.0f}")
    return messages


def stale_locks() -> list[Path]:
    """Lock files of builds of torch extensions, if no process is building now."""
    root = os.environ.get("TORCH_EXTENSIONS_DIR")
    folder = Path(root) if root else Path.home() / ".cache/torch_extensions"
    builders = {"ninja", "g++", "cc1plus", "nvcc"}
    if any(process.info["name"] in builders for process in psutil.process_iter(["name"])):
        return []
    return sorted(folder.glob("**/lock"))


def main(as_json: bool, repository: Path) -> int:
    """Prints the report, or the components as JSON; returns 1 if there is a problem, else 0."""
    if as_json:
        print(json.dumps(components(repository), indent=1))
        return 0
    for name, value in describe():
        print(f"{name:12s} {value}")
    messages = problems()
    print("\n".join(f"PROBLEM: {text}" for text in messages) or "no problem found")
    return int(bool(messages))


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "missing"


def _gflops() -> float:
    """GFLOP/s of this CPU in a float32 matrix product, the best of 20 repeats."""
    a, b = torch.randn(PRODUCT_ROWS, 3 * PRODUCT_WIDTH), torch.randn(3 * PRODUCT_WIDTH, 64)
    best_s = float("inf")
    for _ in range(20):
        started = time.perf_counter()
        a @ b
        best_s = min(best_s, time.perf_counter() - started)
    flops: Any = 2 * PRODUCT_ROWS * 3 * PRODUCT_WIDTH * 64
    return float(flops / best_s / 1e9)
