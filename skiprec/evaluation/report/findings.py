"""What a walk from order to a policy found for one dataset: the end of the quickstart.

The steps are those of docs/depth.md. Every sentence follows from the numbers of reports.
"""

from skiprec.evaluation.measure.arms import FULL_BACKBONE, SKIPREC, arm_named
from skiprec.evaluation.report.schema import METRIC, Metrics, Report, Row, interval_of, value_of
from skiprec.observability.markdown import markdown_table, with_interval

# The least gain of the deep network over the shallow one, relative to it, with which depth pays.
LEAST_GAIN = 0.03
# An exit is offered for everyone if it loses at most this share of the accuracy of all blocks.
ALLOWED_LOSS = 0.01

DEPTH_PAYS = "Depth PAYS on this data"
NO_DEPTH = "This data does NOT NEED depth"
UNDECIDED = "It is NOT DECIDED whether depth pays on this data"


def depth_verdict(shallow: Report, deep: Report, deep_minus_shallow: Metrics) -> str:
    """Whether a deep network is ahead of a shallow one, both trained alone.

    Args:
        deep_minus_shallow: their difference on the same rows.
    """
    few, many = (report["conditions"]["num_blocks"] for report in (shallow, deep))
    base, other = (_metric(_rows(report)[FULL_BACKBONE.name]) for report in (shallow, deep))
    low, high = interval_of(deep_minus_shallow, METRIC)
    verdict = UNDECIDED
    if low > LEAST_GAIN * base:
        verdict = DEPTH_PAYS
    elif high < LEAST_GAIN * base:
        verdict = NO_DEPTH
    difference = with_interval(_metric(deep_minus_shallow), (low, high), "+.4f")
    return (
        f"{verdict}: trained alone, {few} blocks reach MRR@20 {base:.4f} and {many} blocks "
        f"{other:.4f} ({difference}; depth pays from {LEAST_GAIN:.0%} on, which is "
        f"{LEAST_GAIN * base:.4f})."
    )


def knob_table(report: Report) -> list[str]:
    """The lines of a table: the exits of one network, and its policy as it is served."""
    num_blocks = report["conditions"]["num_blocks"]
    rows = _rows(report)
    lines = [
        *((f"exit {depth}", row) for depth, row in _exits(report).items()),
        ("depth by user", rows[SKIPREC.name]),
        ("all blocks", rows[FULL_BACKBONE.name]),
    ]
    return markdown_table(
        ("for everyone, or by user", "keep", "blocks", "MRR@20", "end to end"),
        [
            (
                label,
                f"{_kept(row):.3g}",
                f"{_kept(row) * num_blocks:.1f}",
                f"{_metric(row):.4f}",
                "" if row["speedup_end_to_end"] is None else f"{row['speedup_end_to_end']:.2f}x",
            )
            for label, row in lines
        ],
        padded=True,
    )


def advice(report: Report, verdict: str) -> str:
    """What to serve: the shallowest exit that is accurate enough for everyone, or a policy."""
    all_blocks = _metric(_rows(report)[FULL_BACKBONE.name])
    keeps = f"within {ALLOWED_LOSS:.0%} of the MRR@20 of all blocks ({all_blocks:.4f})"
    text = f"No exit for everyone is {keeps}."
    for depth, row in _exits(report).items():
        if _metric(row) >= (1 - ALLOWED_LOSS) * all_blocks:
            speed = row["speedup_end_to_end"]
            fast = "" if speed is None else f" and answers {speed:.2f} times as fast"
            text = (
                f"On these rows, exit {depth} for everyone is {keeps}{fast}: keep={_kept(row):.3g}."
            )
            break
    points = [] if report["frontier"] is None else report["frontier"]["learned"]
    intervals = [interval_of(point["minus_hull"], METRIC) for point in points]
    above, below = sum(low > 0 for low, _ in intervals), sum(high < 0 for _, high in intervals)
    text += (
        f" Depth by user is above the best coin between two exits at {above} of {len(points)} "
        f"settings of its price, and below it at {below}"
    )
    if 2 * above >= len(points) > 0 == below:  # one or two of many may be above by chance
        return text + ", so users differ in a way that the policy sees."
    if verdict.startswith(NO_DEPTH):
        return text + ", as expected where depth is worth nothing."
    return text + ", so serve an exit."


def _rows(report: Report) -> dict[str, Row]:
    return {row["name"]: row for row in report["rows"]}


def _exits(report: Report) -> dict[int, Row]:
    """The rows of the exits by depth, rising."""
    numbered = [(arm_named(name), row) for name, row in _rows(report).items()]
    rows = {arm.number: row for arm, row in numbered if arm.kind == "exit" and arm.number}
    return dict(sorted(rows.items()))


def _kept(row: Row) -> float:
    kept = row["keep_frac"]
    assert kept is not None
    return kept


def _metric(record: Metrics | Row) -> float:
    return value_of(record, METRIC)
