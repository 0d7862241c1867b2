"""Accuracy against depth: the frontier of fixed sets, and personal decisions."""

from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from skiprec.observability.pictures import (
    ACCENT,
    FAINT,
    INK,
    KEPT,
    SKIPPED,
    style_panel,
    write_title,
)

# Mean number of blocks, value, and the value's interval.
Point = tuple[float, float, Sequence[float]]
# Personal decisions: their MRR@20, and its difference to the frontier at the same mean.
PersonalPoint = tuple[Point, Point]


def draw_frontier(
    sets: Sequence[Point],
    hull: Sequence[int],
    curve: Sequence[PersonalPoint],
    served: PersonalPoint | None,
    others: Mapping[str, tuple[float, float]],
    title: str,
) -> Figure:
    """MRR@20 in the upper panel; personal decisions minus the frontier in the lower one.

    Args:
        sets: the fixed sets, rising in blocks.
        hull: the sizes of the sets that the best coins mix.
        curve: personal decisions at several settings; may be empty.
        served: the personal decisions of serving; None where nothing is served.
        others: name -> (blocks, MRR@20), points without intervals.
    """
    figure = Figure(figsize=(7.2, 6.4), dpi=120, layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(2, 1))
    for axes in (above, below):
        style_panel(axes)
        axes.grid(color=SKIPPED, linewidth=1)
    blocks = [x for x, _, _ in sets]
    above.fill_between(
        blocks, [i[0] for _, _, i in sets], [i[1] for _, _, i in sets], color=KEPT, alpha=0.15
    )
    above.plot(blocks, [y for _, y, _ in sets], "o-", color=KEPT, markersize=3, label="fixed sets")
    best = [(x, y) for x, y, _ in sets if x in hull]
    above.plot(*zip(*best, strict=True), "--", color=KEPT, linewidth=1, label="their hull")
    label = "by user" if served is None else "by user, other settings"
    _personal(above, [point for point, _ in curve], "-", 4, label)
    _personal(below, [gap for _, gap in curve], "-", 4, None)
    if served is not None:
        _personal(above, [served[0]], "", 8, "by user, as served")
        _personal(below, [served[1]], "", 8, None)
    # The axis starts near the compared points; what is far worse would squeeze these.
    shown = [point for point, _ in [*curve, *([] if served is None else [served])]]
    lowest, top = min(i[0] for _, _, i in shown or sets), above.get_ylim()[1]
    near = [y for _, y in others.values() if y > lowest - (top - lowest)]
    fewest = min((x for x, _, _ in shown), default=0.0)
    beside = max((x for x in blocks if x <= fewest), default=fewest)  # the set below all points
    near += [y for x, y, _ in sets if x >= beside]
    bottom = min([lowest, *near])
    for (name, (x, y)), marker in zip(others.items(), "sD^vPX", strict=False):
        label = name if y >= bottom else f"{name} ({y:.3f}, below)"
        above.plot(x, y, marker, color=INK, markersize=5, linestyle="", label=label)
    above.set_ylim(bottom - 0.08 * (top - bottom), top)
    below.axhline(0, color=KEPT, linewidth=1.5)
    below.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=17))
    below.set_xlabel("mean number of blocks that run")
    below.set_ylabel("minus the frontier")
    above.set_ylabel("MRR@20, with 95 % interval over users")
    above.legend(frameon=False, fontsize=9, labelcolor=INK, loc="lower right")
    write_title(above, title, "below: the difference to fixed sets of the same mean, paired")
    return figure


def _personal(
    axes: Axes, points: Sequence[Point], line: str, size: float, label: str | None
) -> None:
    if points:
        values = [y for _, y, _ in points]
        axes.errorbar(
            [x for x, _, _ in points],
            values,
            yerr=[
                [max(0.0, y - i[0]) for y, (_, _, i) in zip(values, points, strict=True)],
                [max(0.0, i[1] - y) for y, (_, _, i) in zip(values, points, strict=True)],
            ],
            fmt=f"o{line}",
            markersize=size,
            color=ACCENT,
            ecolor=ACCENT if size > 4 else FAINT,
            elinewidth=1,
            linewidth=1,
            capsize=2,
            label=label,
        )
