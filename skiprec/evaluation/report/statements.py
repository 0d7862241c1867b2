"""The statements of a report: sentences that follow from its numbers."""

from collections.abc import Mapping

from skiprec.evaluation.measure.arms import (
    FIXED,
    FRONTIER,
    FULL_BACKBONE,
    HULL,
    MASKED,
    RANDOM,
    SHUFFLED,
    SKIPREC,
)
from skiprec.evaluation.measure.intervals import Interval
from skiprec.evaluation.report.schema import (
    METRIC,
    Difference,
    PolicyNumbers,
    Report,
    Row,
    interval_of,
    value_of,
)
from skiprec.observability.markdown import with_interval

# The learned decisions must beat these controls to be called personal: the same decisions applied
# to other users, and the best coins between two fixed sets with the same mean number of blocks.
CONTROLS_OF_THE_CLAIM = (SHUFFLED, FRONTIER, HULL)
LISTED = (*CONTROLS_OF_THE_CLAIM, FIXED, RANDOM)
# Below this share of the variance between users, the policy prunes blocks for everyone.
COLLAPSED_SHARE = 0.01
# From this relative difference on, the median speedup does not represent all requests together.
UNLIKE_TOTAL = 0.1


def statements(report: Report, caution: str | None) -> list[str]:
    """One sentence on each result that would refute the method.

    Args:
        caution: a warning that belongs to the kind of policy; None if there is none.
    """
    rows = {row["name"]: row for row in report["rows"]}
    policy = report["policy"]
    sentences = [_against_baselines(rows, report["over_baseline"])]
    if policy is not None:
        sentences += [_personal(report, policy), *([caution] if caution else []), *_curve(report)]
        sentences += [_against_full(report)]
        sentences += [*_collapsed(policy), *_masked(rows), *_in_total(report)]
    return sentences


def _against_baselines(rows: dict[str, Row], over_baseline: Difference) -> str:
    network, best = over_baseline["of"], over_baseline["minus"]
    low, high = _metric_interval(over_baseline)
    text = (
        f"{best} reaches MRR@20 {_metric(rows[best]):.4f}, {network} {_metric(rows[network]):.4f} "
        f"({with_interval(_metric(over_baseline), (low, high), '+.4f')})"
    )
    if low > 0:
        return f"The network is ahead of the best baseline without one: {text}."
    if high >= 0:
        return f"The network ties with the best baseline without one and has shown nothing: {text}."
    return f"THE NETWORK LOSES to a baseline without one and so has shown nothing: {text}."


def _personal(report: Report, policy: PolicyNumbers) -> str:
    distinct = policy["distinct_decisions"]
    if distinct == 1:
        return (
            "The per-user part is NOT shown: the policy makes one decision for everyone, so blocks "
            "were pruned, not chosen for each user. Any speedup is a smaller network's."
        )
    difference_to = {difference["minus"]: difference for difference in report["differences"]}
    not_beaten = [
        control.name
        for control in CONTROLS_OF_THE_CLAIM
        if _metric_interval(difference_to[control.name])[0] <= 0
    ]
    listed = "; ".join(_difference(difference_to[arm.name]) for arm in LISTED)
    if not_beaten:
        return (
            f"The per-user part is NOT shown: with {distinct} distinct decisions, the learned "
            f"policy does not beat {' or '.join(not_beaten)} ({listed})."
        )
    return (
        f"The per-user part is shown on this split: {distinct} distinct decisions that beat the "
        "same ones shuffled, and the frontier of fixed sets and its hull at the same mean "
        f"({listed})."
    )


def _in_total(report: Report) -> list[str]:
    batch = report["conditions"].get("batch")
    if batch is None:
        return []
    timing = report["timing"][str(batch)]
    median = timing["speedups"][SKIPREC.name]["speedup_end_to_end"]
    total = timing["in_total"][SKIPREC.name]["speedup_end_to_end"]
    if abs(total / median - 1) < UNLIKE_TOTAL:
        return []
    return [
        f"The speedup end to end of {median:.2f}x at batch {batch} is that of the median request; "
        f"with the times of all of them added up it is {total:.2f}x."
    ]


def _curve(report: Report) -> list[str]:
    frontier_of_sets = report["frontier"]
    assert frontier_of_sets is not None, "a report with a policy has a frontier"
    learned, knob = frontier_of_sets["learned"], frontier_of_sets["knob"]
    if knob is None or not learned:
        return []
    frontier = [_metric_interval(point["minus_frontier"]) for point in learned]
    hull = [_metric_interval(point["minus_hull"]) for point in learned]
    return [
        f"Turned by its {knob['name']} to {len(learned)} points, the policy "
        f"is above the frontier of fixed sets at {sum(low > 0 for low, _ in frontier)} and below "
        f"it at {sum(high < 0 for _, high in frontier)}; above its hull at "
        f"{sum(low > 0 for low, _ in hull)}, below at {sum(high < 0 for _, high in hull)} "
        "(intervals of single points, with no correction for their number)."
    ]


def _collapsed(policy: PolicyNumbers) -> list[str]:
    distinct, share = policy["distinct_decisions"], policy["between_user_share"]
    if distinct > 1 and share >= COLLAPSED_SHARE:
        return []
    return [
        f"WARNING: the policy has collapsed: {distinct} distinct decision"
        f"{'' if distinct == 1 else 's'}, {100 * share:.2f} % of the variance of decisions lies "
        "between users. It prunes blocks for everyone."
    ]


def _against_full(report: Report) -> str:
    difference = next(d for d in report["differences"] if d["minus"] == FULL_BACKBONE.name)
    low, high = _metric_interval(difference)
    verdict = "wins" if low > 0 else "loses" if high < 0 else "ties"
    return f"Against the full backbone, skipping {verdict} ({_difference(difference)})."


def _masked(rows: dict[str, Row]) -> list[str]:
    masked = rows.get(MASKED.name)
    bounds = None if masked is None else masked["speedup_blocks_interval"]
    if masked is None or bounds is None or bounds[0] <= 1:
        return []
    return [
        f"WARNING: masked execution, which computes every block, was measured faster than full "
        f"({masked['speedup_blocks']:.2f}x): the machine was disturbed or the clock is "
        "wrong, so distrust the times of this report."
    ]


def _difference(difference: Difference) -> str:
    number = with_interval(_metric(difference), _metric_interval(difference), "+.4f")
    return f"minus {difference['minus']} {number}"


def _metric(record: Mapping[str, object]) -> float:
    return value_of(record, METRIC)


def _metric_interval(record: Mapping[str, object]) -> Interval:
    return interval_of(record, METRIC)
