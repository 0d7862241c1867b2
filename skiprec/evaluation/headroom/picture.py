"""The picture of a headroom report."""

from matplotlib.figure import Figure

from skiprec.evaluation.headroom.schema import HeadroomReport, NestedSet, PricedPoint
from skiprec.evaluation.report.schema import Accuracy
from skiprec.observability.frontier_picture import PersonalPoint, Point, draw_frontier


def draw_headroom(report: HeadroomReport) -> Figure:
    """`headroom.png`."""
    return draw_frontier(
        [_point(nested_set["kept_blocks"], nested_set) for nested_set in report["sets"]],
        report["hull"],
        [_personal_point(point) for point in report["curve"]],
        None,
        {},
        "Headroom of personal depth",
    )


def _point(kept_blocks: float, accuracy: NestedSet | PricedPoint | Accuracy) -> Point:
    return kept_blocks, accuracy["mrr@20"], accuracy["mrr@20_interval"]


def _personal_point(point: PricedPoint) -> PersonalPoint:
    kept_blocks = point["kept_blocks"]
    return _point(kept_blocks, point), _point(kept_blocks, point["minus_frontier"])
