"""What a report says in words about itself; each sentence follows from its numbers."""

from typing import Any

from skiprec.evaluation.baselines import BASELINES

Record = dict[str, Any]

METRIC = "mrr@20"
CONTROLS = ("shuffled", "fixed", "random")


def statements(report: Record) -> list[str]:
    """One sentence on each thing that would prove the method wrong here."""
    rows = {row["name"]: row for row in report["rows"]}
    found = [_against_baselines(rows)]
    if report["policy"] is not None:
        found += [_personal(report), _against_full(report)]
        found += _masked(rows)
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
    listed = "; ".join(_difference(differences[name]) for name in CONTROLS)
    if not_beaten:
        return (
            f"The per-user part is NOT shown: with {distinct} distinct decisions, the learned "
            f"policy does not beat {' or '.join(not_beaten)} ({listed})."
        )
    return (
        f"The per-user part is shown on this split: {distinct} distinct decisions that beat every "
        f"control at the same rate ({listed}). The frontier of other fixed sets is not tested here."
    )


def _against_full(report: Record) -> str:
    difference = next(d for d in report["differences"] if d["minus"] == "full_backbone")
    low, high = difference[f"{METRIC}_interval"]
    verdict = "wins" if low > 0 else "loses" if high < 0 else "ties"
    return f"Against the full backbone, skipping {verdict} ({_difference(difference)})."


def _masked(rows: dict[str, Record]) -> list[str]:
    bounds = rows["masked"]["speedup_blocks_interval"]
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
