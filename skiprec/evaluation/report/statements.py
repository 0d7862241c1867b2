"""What a report says in words about itself; each sentence follows from its numbers."""

from typing import Any

from skiprec.evaluation.measure.baselines import BASELINES

Record = dict[str, Any]

METRIC = "mrr@20"
# What the learned decisions must beat to be called personal: the same decisions without the users,
# and the best that one decision, or a coin between any two, reaches for everyone at the same mean.
CONTROLS = ("shuffled", "frontier", "hull")
LISTED = (*CONTROLS, "fixed", "random")
COLLAPSED_SHARE = 0.01
UNLIKE_TOTAL = 0.1  # from here on the median of ratios does not tell what all requests took


def statements(report: Record, caution: str | None) -> list[str]:
    """One sentence on each thing that would prove the method wrong here.

    Args:
        caution: what a reader must know about the kind of policy; None if there is nothing.
    """
    rows = {row["name"]: row for row in report["rows"]}
    found = [_against_baselines(rows)]
    if report["policy"] is not None:
        found += [_personal(report), *([caution] if caution else []), *_curve(report)]
        found += [_against_full(report)]
        found += [*_collapsed(report), *_masked(rows), *_in_total(report)]
    return found


def _against_baselines(rows: dict[str, Record]) -> str:
    net = rows.get("skiprec", rows["full_backbone"])
    best = max((rows[name] for name in BASELINES if name in rows), key=lambda row: row[METRIC])
    text = f"{best['name']} reaches MRR@20 {best[METRIC]:.4f}, {net['name']} {net[METRIC]:.4f}"
    if net[METRIC] > best[METRIC]:
        return f"The network is ahead of the best baseline without one: {text}."
    return f"THE NETWORK LOSES to a baseline without one and so has shown nothing: {text}."


def _personal(report: Record) -> str:
    distinct = report["policy"]["distinct_decisions"]
    if distinct == 1:
        return (
            "The per-user part is NOT shown: the policy makes one decision for everyone, so blocks "
            "were pruned, not chosen for each user. Any speedup is a smaller network's."
        )
    differences = {d["minus"]: d for d in report["differences"]}
    not_beaten = [name for name in CONTROLS if differences[name][f"{METRIC}_interval"][0] <= 0]
    listed = "; ".join(_difference(differences[name]) for name in LISTED)
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


def _in_total(report: Record) -> list[str]:
    batch = report["conditions"].get("batch")
    if batch is None:
        return []
    timing = report["timing"][str(batch)]
    median, total = (timing[of]["skiprec"]["speedup_end_to_end"] for of in ("speedups", "in_total"))
    if abs(total / median - 1) < UNLIKE_TOTAL:
        return []
    return [
        f"The speedup end to end of {median:.2f}x at batch {batch} is that of the median request; "
        f"with the times of all of them added up it is {total:.2f}x."
    ]


def _curve(report: Record) -> list[str]:
    learned = report["frontier"]["learned"]
    if not learned:
        return []
    frontier = [point["minus_frontier"][f"{METRIC}_interval"] for point in learned]
    hull = [point["minus_hull"][f"{METRIC}_interval"] for point in learned]
    return [
        f"Turned by its {report['frontier']['knob']['name']} to {len(learned)} points, the policy "
        f"is above the frontier of fixed sets at {sum(low > 0 for low, _ in frontier)} and below "
        f"it at {sum(high < 0 for _, high in frontier)}; above its hull at "
        f"{sum(low > 0 for low, _ in hull)}, below at {sum(high < 0 for _, high in hull)} "
        "(intervals of single points, with no correction for their number)."
    ]


def _collapsed(report: Record) -> list[str]:
    distinct = report["policy"]["distinct_decisions"]
    share = report["policy"]["between_user_share"]
    if distinct > 1 and share >= COLLAPSED_SHARE:
        return []
    return [
        f"WARNING: the policy has collapsed: {distinct} distinct decision"
        f"{'' if distinct == 1 else 's'}, {100 * share:.2f} % of the variance of decisions lies "
        "between users. It prunes blocks for everyone."
    ]


def _against_full(report: Record) -> str:
    difference = next(d for d in report["differences"] if d["minus"] == "full_backbone")
    low, high = difference[f"{METRIC}_interval"]
    verdict = "wins" if low > 0 else "loses" if high < 0 else "ties"
    return f"Against the full backbone, skipping {verdict} ({_difference(difference)})."


def _masked(rows: dict[str, Record]) -> list[str]:
    bounds = rows["masked"]["speedup_blocks_interval"] if "masked" in rows else None
    if bounds is None or bounds[0] <= 1:
        return []
    return [
        f"WARNING: masked execution, which computes every block, was measured faster than full "
        f"({rows['masked']['speedup_blocks']:.2f}x): the machine was disturbed or the clock is "
        "wrong, so distrust the times of this report."
    ]


def _difference(record: Record) -> str:
    low, high = record[f"{METRIC}_interval"]
    return f"minus {record['minus']} {record[METRIC]:+.4f} [{low:+.4f}, {high:+.4f}]"
