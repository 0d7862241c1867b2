"""The table of a study, in the columns of the slides, from the results of its runs."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from cluster.studies.study import METRICS, Study, StudyRow
from skiprec.evaluation.measure.intervals import UserBootstrap, interval
from skiprec.evaluation.report.table import column
from skiprec.ranking import metric_values

Record = dict[str, Any]
# By row name: the results of its seeds, in their order; fewer of them while a study goes on.
Results = dict[str, list[Record]]

DIFFERENCE = "mrr@20"
HEADINGS = (
    "model",
    "seeds",
    "MRR@5",
    "MRR@20",
    "HR@5",
    "HR@20",
    "kept",
    "MFLOPs",
    "FLOPs",
    "end to end",
    "MRR@20 minus {reference} [95 %]",
    "training",
)

POLICY_HEADINGS = (
    "policy",
    "decisions",
    "between users",
    "sd of kept",
    "MRR@20 minus shuffled [95 %]",
    "minus fixed sets",
    "minus their hull",
    "minus all its blocks",
)
CONTROLS = ("shuffled", "frontier", "hull", "all_blocks")


def against(table: pa.Table, reference: pa.Table, reference_arm: str) -> dict[str, Record]:
    """Each arm of a run minus one arm of another, by metric, with intervals over users.

    Raises:
        ValueError: the two tables are not of the same rows.
    """
    for name in ("user", "row", "target"):
        if not table.column(name).equals(reference.column(name)):
            raise ValueError(
                f"the two evaluations are not of the same rows (column {name!r} differs), so they "
                "cannot be paired; evaluate both on the same data, split and number of rows"
            )
    bootstrap = UserBootstrap(np.asarray(table.column("user").to_numpy(), np.int32))
    theirs = _metrics(reference, reference_arm)
    found: dict[str, Record] = {}
    for name in table.column_names:
        if not name.startswith("rank_"):
            continue
        difference_RC = _metrics(table, name.removeprefix("rank_")) - theirs
        resampled = bootstrap.resampled_means(difference_RC)
        record: Record = {}
        for index, metric in enumerate(METRICS):
            record[metric] = float(difference_RC[:, index].mean())
            record[f"{metric}_interval"] = interval(resampled[:, index])
        found[name.removeprefix("rank_")] = record
    return found


def study_markdown(
    study: Study, results: Results, extra: Sequence[str], notes: Sequence[str]
) -> str:
    """The whole file: title, table, policies, `extra` lines, what was run and where."""
    headings = [text.format(reference=study.reference.label) for text in HEADINGS]
    lines = [
        f"# {study.title}",
        "",
        _line(headings),
        _line(["---"] + ["---:"] * (len(HEADINGS) - 1)),
    ]
    lines += [_line(_cells(row, results)) for row in study.rows]
    lines += _policies(study, results)
    lines += ["", *extra] if extra else []
    return "\n".join([*lines, "", *(f"- {note}" for note in notes)]) + "\n"


def _policies(study: Study, results: Results) -> list[str]:
    """Whether decisions differ between users and are worth it, of each row that has a policy."""
    trained = [row for row in study.rows if row.arm is None]
    rows = [
        (row.label, found)
        for row in trained
        if (found := [result for result in results.get(row.name, []) if result["policy"]])
    ]
    if not rows:
        return []
    lines = ["", "Decisions, and the same net under its controls at the same number of blocks:", ""]
    lines += [_line(POLICY_HEADINGS), _line(["---"] + ["---:"] * (len(POLICY_HEADINGS) - 1))]
    for label, found in rows:
        policies = [result["policy"] for result in found]
        cells = [
            _mean([policy["distinct_decisions"] for policy in policies], ",.0f"),
            _mean([policy["between_user_share"] for policy in policies], ".2f"),
            _mean([policy["kept_blocks_std"] for policy in policies], ".2f"),
        ]
        for control in CONTROLS:
            pairs = [d for r in found for d in r["differences"] if d["minus"] == control]
            keys = (DIFFERENCE, f"{DIFFERENCE}_interval")
            cells.append(_difference([pair[key] for key in keys for pair in pairs]))
        lines.append(_line([label, *cells]))
    return lines


def arm_of(row: StudyRow, result: Record) -> Record:
    """The line of a run's report that a row of the study shows."""
    named = {line["name"]: line for line in result["rows"]}
    wanted = row.arm or ("skiprec" if "skiprec" in named else "full_backbone")
    if wanted not in named:
        raise ValueError(
            f"row {row.label!r} wants the arm {wanted!r}; the evaluation of {row.of!r} has: "
            f"{', '.join(named)}"
        )
    found: Record = named[wanted]
    return found


def _cells(row: StudyRow, results: Results) -> list[str]:
    found = results.get(row.of or row.name, [])
    if not found:
        return [row.label, "0", *["not run"], *[""] * (len(HEADINGS) - 3)]
    arms = [arm_of(row, result) for result in found]
    differences = [
        result["against_reference"][arm["name"]][key]
        for key in (DIFFERENCE, f"{DIFFERENCE}_interval")
        for result, arm in zip(found, arms, strict=True)
        if result.get("against_reference") and arm["name"] in result["against_reference"]
    ]
    mega = [
        result["flops_full_row"] / 1e6 / arm["speedup_flops"]
        for result, arm in zip(found, arms, strict=True)
        if arm["speedup_flops"] is not None
    ]
    minutes = [result["training"]["minutes"] for result in found] if row.arm is None else []
    return [
        row.label,
        str(len(found)),
        *(_mean([arm[metric] for arm in arms], ".4f") for metric in METRICS[:4]),
        _mean([arm["keep_frac"] for arm in arms], ".2f"),
        _mean(mega, ".2f"),
        _mean([arm["speedup_flops"] for arm in arms], ".2f", "x"),
        _mean([arm["speedup_end_to_end"] for arm in arms], ".2f", "x"),
        _difference(differences),
        _mean(minutes, ".0f", " min"),
    ]


def _mean(values: list[float | None], form: str, unit: str = "") -> str:
    """Mean, and the standard deviation over seeds where there are several."""
    known = [value for value in values if value is not None]
    if not known:
        return ""
    text = f"{np.mean(known):{form}}{unit}".lstrip("0") if form == ".4f" else None
    text = text or f"{np.mean(known):{form}}{unit}"
    return f"{text} ± {np.std(known, ddof=1):{form}}" if len(known) > 1 else text


def _difference(values: list[Any]) -> str:
    """Mean over seeds; of several intervals the means of their ends, which is no narrower."""
    if not values:
        return ""
    half = len(values) // 2
    low, high = np.mean(values[half:], axis=0)
    return f"{np.mean(values[:half]):+.4f} [{low:+.4f}, {high:+.4f}]"


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _metrics(table: pa.Table, arm: str) -> np.ndarray[Any, np.dtype[np.float64]]:
    rank_R = torch.from_numpy(column(table, f"rank_{arm}").astype(np.int64))
    values = metric_values(rank_R)
    return np.stack([values[metric].numpy() for metric in METRICS], axis=1)
