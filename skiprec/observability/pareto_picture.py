"""The trials of a sweep: accuracy against how many times less is computed, and the front."""

from typing import Any

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


def draw_pareto(trials: list[dict[str, Any]], front: list[dict[str, Any]]) -> Figure:
    """One point a trial, one marker a kind of policy; stopped ones hollow.

    Args:
        trials: with `kind`, `complete`, `mrr@20` on validation rows, `flops_speedup`.
        front: those of them that no other one beats in both, joined by a line.
    """
    figure, axes = new_figure(7.0, 4.6)
    kinds = sorted({row["kind"] for row in trials})
    chosen = {row["trial"] for row in front}
    for marker, kind in zip(MARKERS, kinds, strict=False):
        for complete in (True, False):
            rows = [row for row in trials if row["kind"] == kind and row["complete"] == complete]
            if rows:
                axes.scatter(
                    [row["flops_speedup"] for row in rows],
                    [row["mrr@20"] for row in rows],
                    marker=marker,
                    s=34,
                    facecolors=[ACCENT if row["trial"] in chosen else KEPT for row in rows]
                    if complete
                    else "none",
                    edgecolors=KEPT if complete else FAINT,
                    zorder=3,
                )
                name = kind if complete else f"{kind}, stopped"
                filled, edge = (KEPT, KEPT) if complete else ("none", FAINT)
                axes.scatter([], [], marker=marker, s=34, c=filled, edgecolors=edge, label=name)
    if len(front) > 1:
        line = sorted((row["flops_speedup"], row["mrr@20"]) for row in front)
        axes.plot(*zip(*line, strict=True), color=ACCENT, linewidth=1.2, zorder=2)
    for index, row in enumerate(sorted(front, key=lambda row: float(row["flops_speedup"]))):
        is_above = index % 2 == 0  # neighbours on a front are often close
        axes.annotate(
            row["trial"].rpartition("-")[2],
            (row["flops_speedup"], row["mrr@20"]),
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
    num_complete = sum(row["complete"] for row in trials)
    write_title(
        axes,
        "Trials of the sweep",
        f"{len(trials)} trials, {num_complete} complete · red: evaluated on test rows, too",
    )
    return figure
