"""Draws a service under a load that rises and falls: the load, latencies, and depth over time."""

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray

from skiprec.observability.curves import COLOURS
from skiprec.observability.pictures import style_panel

BIN_S = 0.5


def draw_load(
    path: Path, moments: NDArray[np.float64], arms: dict[str, dict[str, Any]], promise_ms: float
) -> None:
    """Writes a picture with three panels over the same time."""
    figure = Figure(figsize=(9, 8), layout="constrained")
    FigureCanvasAgg(figure)
    load, latency, depth = figure.subplots(3, 1, sharex=True)
    edges = np.arange(0, moments[-1] + BIN_S, BIN_S)
    middle, bin_N = edges[:-1] + BIN_S / 2, np.digitize(moments, edges) - 1
    load.step(middle, np.histogram(moments, edges)[0] / BIN_S, where="mid", color="#5b6770")
    load.set_ylabel("requests a second")
    load.set_title("Depth that follows the load", loc="left", fontweight="bold")
    for colour, (name, sent) in zip(COLOURS, arms.items(), strict=False):
        ms_N = np.array(sent["latency_ms"], float)
        kept_N = np.array([np.nan if k is None else k for k in sent["kept"]], float)
        in_bin = [bin_N == number for number in range(len(middle))]
        worst = [np.quantile(ms_N[here_N], 0.99) if here_N.any() else np.nan for here_N in in_bin]
        blocks = [
            np.nanmean(kept_N[here_N]) if np.isfinite(kept_N[here_N]).any() else np.nan
            for here_N in in_bin
        ]
        latency.plot(middle, worst, color=colour, label=name)
        depth.plot(middle, blocks, color=colour, label=name)
    latency.axhline(promise_ms, color="#222222", linestyle="--", linewidth=1)
    latency.text(0, promise_ms, f" promised: {promise_ms:g} ms", va="bottom", fontsize=8)
    latency.set_yscale("log")
    latency.set_ylabel("99 % of the requests, ms")
    depth.set_ylabel("mean blocks that ran")
    depth.set_ylim(bottom=0)
    depth.set_xlabel("seconds")
    latency.legend(frameon=False)
    for axes in (load, latency, depth):
        style_panel(axes)
    figure.savefig(path, dpi=120)
