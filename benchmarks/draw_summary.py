"""The figure that sums up docs/benchmarks/studies, from the committed results of the runs.

Each line of the figure is one way to spend compute. The left column shows its MRR@20 minus that of
the full backbone, the right column how much of it is lost when the same decisions go to other
users. No training, no timing.

    python benchmarks/draw_summary.py
"""

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import imsave
from matplotlib.lines import Line2D

from skiprec.observability.pictures import ACCENT, FAINT, INK, KEPT, figure_to_array, style_panel

STUDIES = Path(__file__).resolve().parents[1] / "docs/benchmarks/studies"
PICTURE = STUDIES / "summary.png"
METRIC = "mrr@20"
LIMITS = (-0.021, 0.0285)
SMALL: dict[str, Any] = {"fontsize": 8.5, "color": INK, "ha": "right"}


@dataclass(frozen=True)
class Wanted:
    """One line of the figure: the label, and the study and the run where its numbers are."""

    label: str
    study: str
    run: str
    seeds: int = 1


@dataclass(frozen=True)
class Panel:
    """The lines of one dataset."""

    title: str
    lines: tuple[Wanted, ...]


@dataclass(frozen=True)
class Estimate:
    """A difference in MRR@20 with its 95 % interval over users, averaged over the seeds."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class Line:
    """The numbers of one line.

    Args:
        compute: FLOPs of a row, as a share of those of the full backbone.
        minus_backbone: the run minus the full backbone of its study, same seed, same users.
        minus_shuffled: its decisions minus the same decisions dealt to other users; None without
            a policy.
    """

    label: str
    compute: float
    minus_backbone: Estimate
    minus_shuffled: Estimate | None


PANELS = (
    Panel(
        "ML-1M, windows of 20 (3 seeds)",
        (
            Wanted("SkipRec-Gumbel", "policy_controls", "gumbel_pre", 3),
            Wanted("SkipRec-Gumbel without the leak (1 seed)", "personal", "personal-last-alone"),
            Wanted("SkipRec-RL", "policy_controls", "rl_pre", 3),
            Wanted("cost policy", "policy_controls", "cost_pre", 3),
            Wanted("trained with one fixed half", "policy_controls", "fixed_pre", 3),
            Wanted("trained with random halves", "policy_controls", "random_pre", 3),
            Wanted("full backbone, 6 epochs more", "policy_controls", "nextitnet_plus_longer", 3),
            Wanted("8 blocks from scratch", "policy_controls", "nextitnet_plus-d8-less", 3),
            Wanted("2 blocks from scratch", "policy_controls", "nextitnet_plus-d2", 3),
        ),
    ),
    Panel(
        "ML-1M, windows of 100 (1 seed)",
        (
            Wanted("SkipRec-Gumbel, batch budget", "personal_w100", "personal-batch"),
            Wanted("SkipRec-Gumbel, shared budget", "personal_w100", "gumbel_pre"),
            Wanted("full backbone, 6 epochs more", "personal_w100", "nextitnet_plus_longer"),
            Wanted("8 blocks from scratch", "depth_w100", "nextitnet_plus-d8-less"),
            Wanted("2 blocks from scratch", "depth_w100", "nextitnet_plus-d2"),
        ),
    ),
    Panel(
        "Grocery, windows of 20 (1 seed)",
        (
            Wanted("SkipRec-Gumbel, batch budget", "personal_grocery", "personal-batch"),
            Wanted("SkipRec-Gumbel, shared budget", "personal_grocery", "gumbel_pre"),
            Wanted("SkipRec-RL", "personal_grocery", "rl_pre"),
            Wanted("cost policy", "personal_grocery", "cost_pre"),
            Wanted("full backbone, 6 epochs more", "personal_grocery", "nextitnet_plus_longer"),
            Wanted("8 blocks from scratch", "depth_grocery", "nextitnet_plus-d8-less"),
            Wanted("2 blocks from scratch", "depth_grocery", "nextitnet_plus-d2"),
        ),
    ),
    Panel(
        "Synthetic users (1 seed)",
        (
            Wanted("SkipRec-Gumbel", "synthetic", "gumbel_pre"),
            Wanted("SkipRec-RL", "synthetic", "rl_pre"),
            Wanted("cost policy", "synthetic", "cost_pre"),
        ),
    ),
)


def read_line(wanted: Wanted, studies: Path = STUDIES) -> Line:
    """The numbers of one line of the figure.

    Raises:
        ValueError: a run that has not been paired with its study's reference.
    """
    results = [
        json.loads((studies / wanted.study / f"{wanted.run}-s{seed}.json").read_text())
        for seed in range(wanted.seeds)
    ]
    compute, against, shuffled = [], [], []
    for result in results:
        if "against_reference" not in result:
            raise ValueError(
                f"{wanted.study}/{wanted.run}: expected the key 'against_reference'; run the study "
                "again, so that the run is paired with its reference"
            )
        arm = "skiprec" if result["policy"] else "full_backbone"
        (row,) = (row for row in result["rows"] if row["name"] == arm)
        reference = json.loads(
            (studies / wanted.study / f"{result['paired_with']['name']}.json").read_text()
        )
        compute.append(
            result["flops_full_row"] / row["speedup_flops"] / reference["flops_full_row"]
        )
        against.append(result["against_reference"][arm])
        shuffled += [d for d in result["differences"] if d["minus"] == "shuffled"]
    is_personal = any(result["policy"] for result in results) and _makes_choices(results)
    return Line(
        wanted.label,
        float(np.mean(compute)),
        _over_seeds(against),
        _over_seeds(shuffled) if is_personal else None,
    )


def _makes_choices(results: Sequence[dict[str, Any]]) -> bool:
    """Whether a policy was learned: controls make decisions, too, but read no history."""
    return all(result["config"]["policy"]["kind"] not in ("fixed", "random") for result in results)


def _over_seeds(differences: Sequence[dict[str, Any]]) -> Estimate:
    """Means over the seeds, as in the tables: of the differences and of each interval's ends."""
    low, high = np.mean([difference[f"{METRIC}_interval"] for difference in differences], axis=0)
    mean = np.mean([difference[METRIC] for difference in differences])
    return Estimate(float(mean), float(low), float(high))


def summary_figure(panels: Sequence[tuple[str, Sequence[Line]]]) -> Figure:
    """One row of panels for each dataset: against the full backbone, against shuffled decisions."""
    heights = [len(lines) + 0.9 for _, lines in panels]
    figure = Figure(figsize=(10.4, 0.27 * sum(heights) + 1.5), dpi=100, layout="constrained")
    grid = figure.subplots(
        len(panels), 2, sharex=True, gridspec_kw={"height_ratios": heights}, squeeze=False
    )
    for (title, lines), (left, right) in zip(panels, grid, strict=True):
        for axes in (left, right):
            _prepare(axes, len(lines))
        left.set_title(title, loc="left", fontsize=10, color=INK, fontweight="bold")
        left.set_yticks(range(len(lines)), [line.label for line in lines], fontsize=9, color=INK)
        right.set_yticks([])
        for place, line in enumerate(lines):
            color = FAINT if line.minus_shuffled is None else KEPT
            _draw(left, place, line.minus_backbone, color)
            left.text(LIMITS[1], place, f"{line.compute:.2f}", va="center", **SMALL)
            if line.minus_shuffled is not None:
                _draw(right, place, line.minus_shuffled, KEPT)
    top = grid[0, 0].get_xaxis_transform()
    grid[0, 0].text(LIMITS[1], 1.03, "FLOPs (full = 1)", transform=top, **SMALL)
    points = [
        Line2D([], [], color=color, marker="o", markersize=5.5, linewidth=2.2, label=text)
        for color, text in ((KEPT, "a learned policy"), (FAINT, "no learned policy"))
    ]
    figure.legend(handles=points, loc="outside lower left", ncols=2, frameon=False, fontsize=9)
    grid[0, 1].set_title(
        "Are the decisions personal?", loc="left", fontsize=10, color=INK, fontweight="bold"
    )
    grid[-1, 0].set_xlabel("MRR@20 minus the full backbone", fontsize=9.5)
    grid[-1, 1].set_xlabel("MRR@20 minus the same decisions of other users", fontsize=9.5)
    figure.suptitle(
        "Running fewer blocks: what it costs in accuracy, and whether the choice is personal",
        fontsize=12,
        color=INK,
        fontweight="bold",
        x=0.01,
        ha="left",
    )
    return figure


def _prepare(axes: Axes, num_lines: int) -> None:
    style_panel(axes)
    axes.set_xlim(*LIMITS)
    axes.set_ylim(num_lines - 0.4, -0.6)
    axes.axvline(0, color=ACCENT, linewidth=1)
    axes.spines["left"].set_visible(False)
    axes.tick_params(axis="y", length=0)
    axes.set_xticks([-0.02, -0.01, 0, 0.01, 0.02], ["-.02", "-.01", "0", "+.01", "+.02"])
    axes.grid(axis="x", color=FAINT, alpha=0.25)


def _draw(axes: Axes, place: int, estimate: Estimate, color: str) -> None:
    """A point with its interval; the number and an arrow where it lies outside of the picture."""
    if estimate.low > LIMITS[1]:
        text = f"{estimate.mean:+.3f} \N{RIGHTWARDS ARROW}"
        axes.text(LIMITS[1], place, text, va="center", **SMALL)
        return
    axes.plot([estimate.low, estimate.high], [place, place], color=color, linewidth=2.2)
    axes.plot([estimate.mean], [place], marker="o", markersize=5.5, color=color)


def read_panels(studies: Path = STUDIES) -> list[tuple[str, list[Line]]]:
    """Every panel's title and lines."""
    return [(panel.title, [read_line(line, studies) for line in panel.lines]) for panel in PANELS]


def main() -> int:
    pixels = figure_to_array(summary_figure(read_panels()))
    # 16 levels a channel instead of 256: soft edges look the same, and the file is smaller.
    coarse = (np.round(pixels / 17) * 17).astype(np.uint8)
    imsave(PICTURE, coarse, pil_kwargs={"optimize": True})
    print(f"{PICTURE.relative_to(STUDIES.parents[2])}: {PICTURE.stat().st_size / 1e3:.0f} KB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
