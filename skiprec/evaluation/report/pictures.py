"""The pictures of a report."""

from matplotlib.figure import Figure

from skiprec.evaluation.measure.arms import FULL_BACKBONE, MIXTURES, RANDOM, SHUFFLED, SKIPREC
from skiprec.evaluation.report.make import Measured
from skiprec.evaluation.report.schema import (
    METRIC,
    FixedSet,
    Frontier,
    Metrics,
    PolicyPoint,
    Report,
    interval_of,
    value_of,
)
from skiprec.evaluation.report.table import kept_matrix
from skiprec.observability import pictures
from skiprec.observability.frontier_picture import PersonalPoint, Point, draw_frontier


def draw_pictures(measured: Measured, report: Report) -> dict[str, Figure]:
    """The pictures of a report by file name."""
    figures = {"speed_accuracy.png": _speed_picture(report)}
    frontier = report["frontier"]
    if frontier is not None:
        keep_RL = kept_matrix(measured.table)
        figures |= {
            "frontier.png": _frontier_picture(report, frontier, num_blocks=keep_RL.shape[1]),
            "keep_heat_map.png": pictures.keep_heat_map(keep_RL),
            "kept_blocks.png": pictures.kept_blocks_histogram(keep_RL),
            "block_keep_rates.png": pictures.block_keep_rates(keep_RL),
        }
    return figures


def _speed_picture(report: Report) -> Figure:
    """Accuracy against the measured speedup, or without times against that in FLOPs.

    `SHUFFLED` is not timed and stands at the speedup of `SKIPREC`, whose decisions it has. The
    mixtures are not timed either; they are in the picture of the frontier.
    """
    is_timed = bool(report["timing"])
    speedup_of = {
        row["name"]: row["speedup_end_to_end"] if is_timed else row["speedup_flops"]
        for row in report["rows"]
    }
    if SHUFFLED.name in speedup_of:
        speedup_of[SHUFFLED.name] = speedup_of[SKIPREC.name]
    mixtures = [arm.name for arm in MIXTURES]
    scored = {
        row["name"]: (value_of(row, METRIC), interval_of(row, METRIC))
        for row in report["rows"]
        if row["mrr@20"] is not None and row["name"] not in mixtures
    }
    points, lines = {}, {}
    for name, (accuracy, bounds) in scored.items():
        speedup = speedup_of[name]
        if speedup is None:
            lines[name] = accuracy
        else:
            points[name] = (speedup, accuracy, bounds)
    label = (
        f"speedup end to end at batch {report['conditions']['batch']}"
        if is_timed
        else "speedup in FLOPs, end to end"
    )
    return pictures.speed_against_accuracy(points, lines, label)


def _frontier_picture(report: Report, frontier: Frontier, num_blocks: int) -> Figure:
    rows = {row["name"]: row for row in report["rows"]}
    return draw_frontier(
        [_point(fixed_set["kept_blocks"], fixed_set) for fixed_set in frontier["sets"]],
        frontier["hull"],
        [_personal_point(point) for point in frontier["learned"]],
        _personal_point(frontier["served"]),
        {
            arm.name: (
                num_blocks * value_of(rows[arm.name], "keep_frac"),
                value_of(rows[arm.name], METRIC),
            )
            for arm in (FULL_BACKBONE, RANDOM, SHUFFLED)
        },
        "Accuracy against depth",
    )


def _point(kept_blocks: float, metrics: FixedSet | PolicyPoint | Metrics) -> Point:
    return kept_blocks, value_of(metrics, METRIC), interval_of(metrics, METRIC)


def _personal_point(point: PolicyPoint) -> PersonalPoint:
    kept_blocks = point["kept_blocks"]
    return _point(kept_blocks, point), _point(kept_blocks, point["minus_frontier"])
