"""The tables of a study, from the results of its runs."""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import torch

from cluster.studies.schema import StudyResult
from cluster.studies.study import Study, StudyRow
from skiprec.evaluation.measure.arms import (
    ALL_BLOCKS,
    FRONTIER,
    FULL_BACKBONE,
    HULL,
    SHUFFLED,
    SKIPREC,
    Arm,
    scored_arms,
)
from skiprec.evaluation.measure.intervals import Floats, UserBootstrap, interval
from skiprec.evaluation.report.schema import (
    METRIC,
    METRICS,
    Difference,
    Metrics,
    Row,
    interval_of,
    metrics_record,
    value_of,
)
from skiprec.evaluation.report.table import column
from skiprec.observability.markdown import markdown_table, with_interval
from skiprec.ranking import metric_values

# By the name of a row: the results of its seeds, in their order, as far as the study has come.
Results = dict[str, list[StudyResult]]

SHOWN_METRICS = METRICS[:4]
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
# The last columns of the policies are the differences to these arms.
POLICY_RIVALS = (SHUFFLED, FRONTIER, HULL, ALL_BLOCKS)


def against(table: pa.Table, reference: pa.Table, reference_arm: Arm) -> dict[str, Metrics]:
    """Each arm of a run minus one arm of another run, by the name of the arm.

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
    reference_RM = _metrics(reference, reference_arm)
    differences: dict[str, Metrics] = {}
    for arm in scored_arms(table.column_names):
        difference_RM = _metrics(table, arm) - reference_RM
        resampled_NM = bootstrap.resampled_means(difference_RM)
        estimates = {
            metric: (float(difference_RM[:, m].mean()), interval(resampled_NM[:, m]))
            for m, metric in enumerate(METRICS)
        }
        differences[arm.name] = metrics_record(estimates.__getitem__)
    return differences


def study_markdown(
    study: Study, results: Results, extra: Sequence[str], notes: Sequence[str]
) -> str:
    """The contents of `table.md`: title, rows, policies, `extra` lines, then the `notes`."""
    headings = [text.format(reference=study.reference.label) for text in HEADINGS]
    lines = [f"# {study.title}", ""]
    lines += markdown_table(headings, [_cells(row, results) for row in study.rows])
    lines += _policies(study, results)
    lines += ["", *extra] if extra else []
    return "\n".join([*lines, "", *(f"- {note}" for note in notes)]) + "\n"


def _policies(study: Study, results: Results) -> list[str]:
    """Whether decisions differ between users and are worth it, of each row that has a policy."""
    rows = []
    for row in study.rows:
        with_policy = [result for result in results.get(row.name, []) if result["policy"]]
        if row.arm is None and with_policy:
            rows.append([row.label, *_policy_cells(with_policy)])
    if not rows:
        return []
    text = "Decisions, and the same net under its controls at the same number of blocks:"
    return ["", text, "", *markdown_table(POLICY_HEADINGS, rows)]


def _policy_cells(results: list[StudyResult]) -> list[str]:
    policies = [result["policy"] for result in results if result["policy"]]
    cells = [
        _mean([policy["distinct_decisions"] for policy in policies], ",.0f"),
        _mean([policy["between_user_share"] for policy in policies], ".2f"),
        _mean([policy["kept_blocks_std"] for policy in policies], ".2f"),
    ]
    for rival in POLICY_RIVALS:
        differences = [
            difference
            for result in results
            for difference in result["differences"]
            if difference["minus"] == rival.name
        ]
        cells.append(_mean_difference(differences))
    return cells


def arm_of(row: StudyRow, result: StudyResult) -> Row:
    """The line of a run's report that a row of the study shows.

    Raises:
        ValueError: the evaluation has no such arm.
    """
    named = {line["name"]: line for line in result["rows"]}
    served = SKIPREC if SKIPREC.name in named else FULL_BACKBONE
    wanted = row.arm or served.name
    if wanted not in named:
        raise ValueError(
            f"row {row.label!r} shows the arm {wanted!r}; the evaluation of {row.of!r} has: "
            f"{', '.join(named)}"
        )
    return named[wanted]


def _cells(row: StudyRow, results: Results) -> list[str]:
    seeds = results.get(row.of or row.name, [])
    if not seeds:
        return [row.label, "0", *["not run"], *[""] * (len(HEADINGS) - 3)]
    lines = [arm_of(row, result) for result in seeds]
    differences = [
        result["against_reference"][line["name"]]
        for result, line in zip(seeds, lines, strict=True)
        if line["name"] in result.get("against_reference", {})
    ]
    mega_flops = [
        result["flops_full_row"] / 1e6 / line["speedup_flops"]
        for result, line in zip(seeds, lines, strict=True)
        if line["speedup_flops"] is not None
    ]
    minutes = [result["training"]["minutes"] for result in seeds] if row.arm is None else []
    return [
        row.label,
        str(len(seeds)),
        *(_mean([value_of(line, metric) for line in lines], ".4f") for metric in SHOWN_METRICS),
        _mean([line["keep_frac"] for line in lines], ".2f"),
        _mean(mega_flops, ".2f"),
        _mean([line["speedup_flops"] for line in lines], ".2f", "x"),
        _mean([line["speedup_end_to_end"] for line in lines], ".2f", "x"),
        _mean_difference(differences),
        _mean(minutes, ".0f", " min"),
    ]


def _mean(values: Sequence[float | None], form: str, unit: str = "") -> str:
    """The mean over seeds, with the standard deviation where there are several seeds."""
    known = [value for value in values if value is not None]
    if not known:
        return ""
    text = f"{np.mean(known):{form}}{unit}".lstrip("0") if form == ".4f" else None
    text = text or f"{np.mean(known):{form}}{unit}"
    return f"{text} ± {np.std(known, ddof=1):{form}}" if len(known) > 1 else text


def _mean_difference(differences: Sequence[Metrics | Difference]) -> str:
    """The mean over seeds of the differences in `METRIC`, and of the ends of their intervals.

    Such an interval is no narrower than the interval of the mean over seeds would be.
    """
    if not differences:
        return ""
    means = [value_of(difference, METRIC) for difference in differences]
    bounds = [interval_of(difference, METRIC) for difference in differences]
    low, high = np.mean(bounds, axis=0)
    return with_interval(float(np.mean(means)), (low, high), "+.4f")


def _metrics(table: pa.Table, arm: Arm) -> Floats:
    """`[R, M]`: the contribution of each row to each metric."""
    rank_R = torch.from_numpy(column(table, arm.rank_column).astype(np.int64))
    values = metric_values(rank_R)
    return np.stack([values[metric].numpy() for metric in METRICS], axis=1)
