"""The trials of a sweep: accuracy against the speedup in FLOPs, and the Pareto front."""

from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.figure import Figure

from skiprec.observability.pictures import (
    ACCENT,
    FAINT,
    INK,
    KEPT,
    SKIPPED,
    new_figure,
    write_title,
)

MARKERS = "os^Dv"


@dataclass(frozen=True)
class TrialPoint:
    """One trial in the picture.

    Args:
        kind: of the policy.
        mrr: MRR@20 on validation rows.
    """

    trial: str
    kind: str
    is_complete: bool
    flops_speedup: float
    mrr: float


def draw_pareto(trials: Sequence[TrialPoint], front: Sequence[TrialPoint]) -> Figure:
    """One point a trial, one marker a kind of policy; trials that were stopped are hollow.

    Args:
        front: the trials that no other one beats in both axes; a line joins them.
    """
    figure, axes = new_figure(7.0, 4.6)
    kinds = sorted({point.kind for point in trials})
    on_front = {point.trial for point in front}
    for marker, kind in zip(MARKERS, kinds, strict=False):
        for is_complete in (True, False):
            points = [p for p in trials if p.kind == kind and p.is_complete == is_complete]
            if points:
                axes.scatter(
                    [point.flops_speedup for point in points],
                    [point.mrr for point in points],
                    marker=marker,
                    s=34,
                    facecolors=[ACCENT if point.trial in on_front else KEPT for point in points]
                    if is_complete
                    else "none",
                    edgecolors=KEPT if is_complete else FAINT,
                    zorder=3,
                )
                name = kind if is_complete else f"{kind}, stopped"
                filled, edge = (KEPT, KEPT) if is_complete else ("none", FAINT)
                axes.scatter([], [], marker=marker, s=34, c=filled, edgecolors=edge, label=name)
    if len(front) > 1:
        line = sorted((point.flops_speedup, point.mrr) for point in front)
        axes.plot(*zip(*line, strict=True), color=ACCENT, linewidth=1.2, zorder=2)
    for index, point in enumerate(sorted(front, key=lambda point: point.flops_speedup)):
        is_above = index % 2 == 0  # neighbours on a front are often close
        axes.annotate(
            point.trial.rpartition("-")[2],
            (point.flops_speedup, point.mrr),
            xytext=(0, 7 if is_above else -7),
            textcoords="offset points",
            ha="center",
            va="bottom" if is_above else "top",
            fontsize=8,
            color=INK,
        )
    axes.margins(x=0.1, y=0.1)
    axes.grid(axis="both", color=SKIPPED, linewidth=1)
    axes.legend(fontsize=8, frameon=False)
    axes.set_xlabel("FLOPs speedup, end to end (times less)")
    axes.set_ylabel("MRR@20 on validation rows")
    num_complete = sum(point.is_complete for point in trials)
    write_title(
        axes,
        "Trials of the sweep",
        f"{len(trials)} trials, {num_complete} complete · red: evaluated on test rows, too",
    )
    return figure
