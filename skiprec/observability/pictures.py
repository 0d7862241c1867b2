"""Pictures of a policy's decisions, as matplotlib figures without a screen."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter
from numpy.typing import NDArray

# Whether a row keeps a block: 0 or 1, in any type.
Keep = NDArray[Any]

KEPT, SKIPPED, INK, FAINT, ACCENT = "#1f5f8b", "#eef2f5", "#22303c", "#8a97a3", "#d1495b"
# The largest number of rows in a heat map; of more rows, this many are drawn, evenly spaced.
MAX_ROWS = 1200


def keep_heat_map(keep_RL: Keep) -> Figure:
    """A heat map of users (rows, most blocks first) by blocks; dark where the block runs."""
    num_rows, num_blocks = keep_RL.shape
    keep = np.asarray(keep_RL) > 0
    # Rows with equally many blocks are sorted by decision, so that equal decisions form bands.
    order_R = np.lexsort((*keep.T[::-1], keep.sum(1)))[::-1]
    shown = order_R[np.linspace(0, num_rows - 1, min(num_rows, MAX_ROWS)).round().astype(int)]
    figure, axes = new_figure(6.4, 4.8)
    axes.imshow(
        keep[shown],
        aspect="auto",
        interpolation="nearest",
        cmap=ListedColormap([SKIPPED, KEPT]),
        vmin=0,
        vmax=1,
        extent=(-0.5, num_blocks - 0.5, num_rows, 0),
    )
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=16))
    for edge in range(1, num_blocks if num_blocks <= 64 else 1):
        axes.axvline(edge - 0.5, color="white", linewidth=0.8)
    axes.set_xlabel("block")
    axes.set_ylabel("rows of users, most kept blocks first")
    kept_R = keep.sum(1)
    write_title(
        axes,
        "Blocks kept for each user",
        f"{num_rows:,} rows · {len(np.unique(keep, axis=0)):,} distinct decisions · "
        f"mean {kept_R.mean():.1f} of {num_blocks} blocks",
    )
    return figure


def kept_blocks_histogram(keep_RL: Keep) -> Figure:
    """A histogram of the number of blocks that users keep."""
    num_rows, num_blocks = keep_RL.shape
    kept_R = (np.asarray(keep_RL) > 0).sum(1)
    share = np.bincount(kept_R, minlength=num_blocks + 1) / num_rows
    figure, axes = new_figure(6.4, 3.6)
    bars = axes.bar(np.arange(num_blocks + 1), share, width=0.8, color=KEPT)
    if num_blocks <= 24:
        labels = [f"{100 * s:.0f}" if s >= 0.005 else "" for s in share]
        axes.bar_label(bars, labels, padding=2, fontsize=8, color=INK)
    axes.axvline(kept_R.mean(), color=ACCENT, linewidth=1.2, linestyle="--")
    axes.set_xlim(-0.7, num_blocks + 0.7)
    axes.set_ylim(0, 1.15 * share.max())
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=17))
    axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    axes.set_xlabel("blocks kept")
    axes.set_ylabel("share of rows")
    write_title(
        axes,
        "How many blocks users keep",
        f"mean {kept_R.mean():.1f} of {num_blocks} (dashed) · "
        f"standard deviation {kept_R.std():.2f}",
    )
    return figure


def block_keep_rates(keep_RL: Keep) -> Figure:
    """The share of rows that keep each block. Only a block between 0 and 1 can be personal."""
    rate_L = (np.asarray(keep_RL) > 0).mean(0)
    num_blocks = len(rate_L)
    figure, axes = new_figure(6.4, 3.2)
    axes.bar(np.arange(num_blocks), np.ones(num_blocks), width=0.8, color=SKIPPED)
    axes.bar(np.arange(num_blocks), rate_L, width=0.8, color=KEPT)
    axes.set_xlim(-0.7, num_blocks - 0.3)
    axes.set_ylim(0, 1)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=17))
    axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    axes.set_xlabel("block")
    axes.set_ylabel("share of rows that keep it")
    always, never = int((rate_L == 1).sum()), int((rate_L == 0).sum())
    write_title(
        axes,
        "Keep rate of each block",
        f"{always} kept by everyone · {never} by no one · {num_blocks - always - never} by some",
    )
    return figure


def speed_against_accuracy(
    points: Mapping[str, tuple[float, float, Sequence[float]]],
    lines: Mapping[str, float],
    speed_label: str,
) -> Figure:
    """Accuracy against speedup; each arm is a point with the interval of its accuracy.

    Args:
        points: name -> (speedup, MRR@20, [low, high]).
        lines: name -> MRR@20 of baselines that have no speed. The subtitle names a baseline that
            is far below, so that its line does not squeeze the points together.
    """
    figure, axes = new_figure(7.0, 4.6)
    for name, (speed, mrr, (low, high)) in points.items():
        is_skiprec = name == "skiprec"
        color = ACCENT if is_skiprec else KEPT
        axes.errorbar(
            speed,
            mrr,
            yerr=[[max(0.0, mrr - low)], [max(0.0, high - mrr)]],
            fmt="o",
            markersize=7 if is_skiprec else 5,
            color=color,
            ecolor=color,
            elinewidth=1,
            capsize=3,
            zorder=4 if is_skiprec else 3,
        )
        # Among points that are close together, the highest has its name above it.
        near_by = [y for x, y, _ in points.values() if abs(x - speed) < 0.05 * speed]
        is_highest = mrr >= max(near_by) and name != "all_blocks"
        label = axes.annotate(
            name,
            (speed, mrr),
            # The reference is at the left end; its name would cover the points of other arms.
            xytext=(-8 if speed == 1 else 8, 6 if is_highest else -13),
            ha="right" if speed == 1 else "left",
            textcoords="offset points",
            fontsize=9,
            color=color,
            bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.5, "alpha": 0.8},
            zorder=2,
        )
        label.set_in_layout(False)
    low, high = axes.get_ylim()
    near = {name: mrr for name, mrr in lines.items() if mrr > low - 1.5 * (high - low)}
    far = {name: mrr for name, mrr in lines.items() if name not in near}
    for name, mrr in near.items():
        axes.axhline(mrr, color=FAINT, linewidth=1, linestyle=":")
        axes.annotate(
            name,
            (1, mrr),
            xycoords=("axes fraction", "data"),
            xytext=(-4, 3),
            textcoords="offset points",
            ha="right",
            fontsize=8,
            color=FAINT,
        )
    axes.margins(x=0.25)
    axes.grid(axis="both", color=SKIPPED, linewidth=1)
    axes.set_xlabel(speed_label)
    axes.set_ylabel("MRR@20, with 95 % interval over users")
    below = ", ".join(f"{name} {mrr:.4f}" for name, mrr in far.items())
    below = f" · below: {below}" if far else ""
    write_title(axes, "Speed against accuracy", f"up and to the right is better{below}")
    return figure


def figure_to_array(figure: Figure) -> NDArray[np.uint8]:
    """The pixels of the figure, `[height, width, 3]`."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()  # type: ignore[no-untyped-call]
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()  # type: ignore[no-untyped-call]


def new_figure(width: float, height: float) -> tuple[Figure, Axes]:
    """An empty figure with one panel; sizes in inches."""
    # pyplot would keep global state, which must be closed and is not safe in threads.
    figure = Figure(figsize=(width, height), dpi=120, layout="constrained")
    axes = figure.add_subplot()
    style_panel(axes)
    return figure, axes


def style_panel(axes: Axes) -> None:
    """Sets the frame and the colours that all panels share."""
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color(FAINT)
    axes.tick_params(colors=INK, labelsize=9)
    axes.xaxis.label.set_color(INK)
    axes.yaxis.label.set_color(INK)


def write_title(axes: Axes, title: str, subtitle: str) -> None:
    """Writes a headline and, below it, the numbers that it rests on."""
    axes.set_title(title, loc="left", fontsize=12, color=INK, pad=22, fontweight="bold")
    text = axes.annotate(
        subtitle,
        (0, 1),
        xycoords="axes fraction",
        xytext=(0, 8),
        textcoords="offset points",
        fontsize=9,
        color=FAINT,
    )
    text.set_in_layout(False)  # a long one would squeeze the panel
