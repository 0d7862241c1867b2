"""`report.md`, and the short table for the terminal, from the contents of `report.json`."""

from collections.abc import Mapping, Sequence

from skiprec.evaluation.measure.arms import MASKED, arm_named
from skiprec.evaluation.measure.timing import stage_name
from skiprec.evaluation.report.schema import (
    METRIC,
    METRICS,
    SPEEDUPS,
    Amdahl,
    Frontier,
    LearnedPoint,
    LengthRow,
    NativeAgreement,
    PolicyNumbers,
    PolicyPoint,
    Report,
    Timing,
    interval_of,
    value_of,
)
from skiprec.observability.markdown import markdown_table, with_interval

# A line of a table: numbers, or text that is written already.
Cells = Mapping[str, object]

DIFFERENCE_METRICS = ("mrr@5", "mrr@20", "hr@20", "ndcg@10")
TIMED_SPEEDUPS = SPEEDUPS[1:]
HEADINGS = {
    "name": "",
    "mrr@20_interval": "95 %",
    "minus_frontier": "MRR@20 minus the frontier",
    "minus_hull": "minus its hull",
    "keep_frac": "kept",
    "speedup_flops": "FLOPs",
    "speedup_blocks": "blocks",
    "speedup_policy": "+ policy",
    "speedup_end_to_end": "end to end",
}
# Texts that stand for the pictures, by file name.
ALT_TEXTS = {
    "frontier.png": "accuracy against depth: fixed sets and the learned policy",
    "keep_heat_map.png": "blocks kept for each user",
    "kept_blocks.png": "how many blocks users keep",
    "block_keep_rates.png": "keep rate of each block",
    "speed_accuracy.png": "speed against accuracy",
}


def terminal_cells(report: Report) -> list[list[str]]:
    """The headings, then the cells of each row; speedups at the first batch size."""
    columns = ("name", "mrr@5", "mrr@20", "hr@5", "hr@20", "keep_frac", *SPEEDUPS)
    headings = [HEADINGS.get(c, c.upper()) for c in columns]
    return [headings, *([_cell(row, c) for c in columns] for row in report["rows"])]


def terminal_table(report: Report) -> str:
    """The rows of a report in columns of fixed width; speedups at the first batch size."""
    lines = terminal_cells(report)
    name_width, *widths = [max(map(len, cells)) for cells in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join([name.ljust(name_width), *map(str.rjust, cells, widths)])
        for name, *cells in lines
    )


def report_markdown(report: Report, pictures: list[str]) -> str:
    """The contents of `report.md`.

    Args:
        pictures: the file names of the pictures, which are in the same folder.
    """
    conditions, policy, frontier = report["conditions"], report["policy"], report["frontier"]
    lines = [
        f"# Evaluation of {conditions['name']}",
        "",
        *(f"- {text}" for text in report["statements"]),
        "",
    ]
    lines += ["## Accuracy and speed", ""]
    lines += _table(("name", *METRICS, "keep_frac", *SPEEDUPS), report["rows"])
    lines += ["", _how_to_read(report), ""]
    if report["differences"]:
        lines += ["## Paired differences", "", *_differences(report), ""]
    if policy is not None and frontier is not None:
        lines += ["## The frontier of fixed sets", "", *frontier_lines(frontier), ""]
        lines += ["## Per user", "", *_policy(policy), ""]
    if report.get("by_length"):
        lines += ["## By length of the history", "", *_by_length(report["by_length"]), ""]
    if report["timing"]:
        lines += ["## Times", "", *_times(report), ""]
    lines += [f"![{ALT_TEXTS[name]}]({name})" for name in pictures]
    lines += ["", "## Conditions", ""]
    lines += [f"- {key}: {_plain(value)}" for key, value in conditions.items()]
    return "\n".join(lines) + "\n"


def _how_to_read(report: Report) -> str:
    conditions, policy = report["conditions"], report["policy"]
    text = (
        "Next item at the last position, ranked against all "
        f"{conditions['num_items']:,} items ({'without' if conditions['exclude_seen'] else 'with'} "
        "those already in the history). FLOPs: end to end, policy and head included. "
    )
    if report["timing"]:
        text += (
            f"Times at batch {conditions['batch']}, each the median of paired ratios to the full "
            "network (all blocks, no policy): blocks only; blocks + policy; end to end (embedding, "
            "policy, dispatch, blocks, head, top 20)."
        )
        executor = conditions.get("executor", "")
        if executor.startswith("native"):
            text += " The native executor ran all arms but masked, which runs in PyTorch."
    else:
        text += "Times were not taken (evaluation.timing_batches is empty)."
    if conditions["exclude_seen"]:
        text += " own_frequent and last_items recommend seen items, so they have no row here."
    if policy is not None:
        text += (
            " random, fixed, shuffled: the same weights at the same rate (shuffled costs what "
            "skiprec does and is not timed). frontier: a coin between the two fixed sets whose "
            "sizes lie around skiprec's mean, such that its mean is the same; hull: between those "
            "two of all fixed sets that reach most with it."
        )
    if policy is not None and report["timing"]:
        text += (
            " masked computes every block and throws the skipped ones away; oracle gets skiprec's "
            "decisions for free; shallow is a static net of the "
            f"first {policy['num_fixed_blocks']} blocks."
        )
    return text


def _differences(report: Report) -> list[str]:
    lines = [
        {"name": f"{difference['of']} minus {difference['minus']}"}
        | {metric: _signed(difference, metric) for metric in DIFFERENCE_METRICS}
        for difference in report["differences"]
    ]
    table = _table(("name", *DIFFERENCE_METRICS), lines)
    return [*table, "", "95 % intervals over users, all rows of a user together, same resamples."]


def frontier_lines(frontier: Frontier) -> list[str]:
    """The fixed sets, then the policy at its settings and its gain over the sets."""
    columns = ("blocks", "mrr@5", "mrr@20", "mrr@20_interval", "hr@20", "ndcg@10")
    sets = [
        {
            **fixed_set,
            "which": _block_ranges(fixed_set["blocks"]),
            "blocks": str(fixed_set["kept_blocks"]),
            "mrr@20_interval": _bounds(fixed_set),
        }
        for fixed_set in frontier["sets"]
    ]
    lines = ["For everyone, the blocks that the policy keeps most:", ""]
    lines += _table((*columns, "speedup_flops", "which"), sets)
    hull = ", ".join(str(size) for size in frontier["hull"])
    lines += ["", f"Coins between neighbours among {hull} blocks reach the most (the hull)."]
    knob, served = frontier["knob"], frontier["served"]
    if knob is None:
        text = "The policy's own decisions, and what they are above the frontier at the same mean:"
        points = [_point_cells("served", served)]
    else:
        text = f"The policy at settings of its {knob['name']}; minus the frontier of the same mean:"
        points = [_point_cells(f"{knob['served']:.4g} (served)", served)]
        points += [_point_cells(f"{point['setting']:.4g}", point) for point in frontier["learned"]]
    headings = ("setting", *columns, "minus_frontier", "minus_hull", "speedup_flops")
    return [*lines, "", text, "", *_table(headings, points)]


def _point_cells(setting: str, point: PolicyPoint | LearnedPoint) -> Cells:
    return {
        **point,
        "setting": setting,
        "blocks": f"{point['kept_blocks']:.2f}",
        "mrr@20_interval": _bounds(point),
        "minus_frontier": _signed(point["minus_frontier"], METRIC),
        "minus_hull": _signed(point["minus_hull"], METRIC),
    }


def _bounds(record: Mapping[str, object]) -> str:
    low, high = interval_of(record, METRIC)
    return f"[{low:.4f}, {high:.4f}]"


def _signed(record: Mapping[str, object], number: str) -> str:
    return with_interval(value_of(record, number), interval_of(record, number), "+.4f")


def _block_ranges(blocks: list[int]) -> str:
    """The blocks as ranges, such as `0-3 7 9-10`."""
    parts: list[list[int]] = []
    for block in blocks:
        if parts and block == parts[-1][-1] + 1:
            parts[-1].append(block)
        else:
            parts.append([block])
    return " ".join(str(p[0]) if len(p) == 1 else f"{p[0]}-{p[-1]}" for p in parts) or "none"


def _policy(policy: PolicyNumbers) -> list[str]:
    num_blocks = len(policy["keep_rate_of_block"])
    return [
        f"- blocks kept: mean {policy['kept_blocks_mean']:.2f} of {num_blocks}, standard deviation "
        f"{policy['kept_blocks_std']:.2f}; {policy['distinct_decisions']} distinct decisions",
        f"- {100 * policy['between_user_share']:.1f} % of the variance of decisions lies between "
        "users (the rest is between blocks: the same for everyone)",
        f"- correlation of kept blocks with the history's length: "
        f"{_optional(policy['kept_length_correlation'])}"
        + (
            f"; with the time at batch 1: {_optional(policy['kept_time_correlation'])} "
            f"({policy['timed_rows']} timed rows)"
            if "timed_rows" in policy
            else ""
        ),
        f"- the 20 best items equal the full network's (same weights, all blocks) for "
        f"{100 * policy['top20_equal_share']:.1f} % of the rows; "
        f"{policy['top20_shared_mean']:.1f} of them are shared on average",
        "- keep rate of each block: "
        + " ".join(f"{rate:.2f}" for rate in policy["keep_rate_of_block"]),
    ]


def _by_length(ranges: Sequence[LengthRow]) -> list[str]:
    lines = []
    for line in ranges:
        end = "" if line["to"] is None else str(line["to"])
        lines.append(
            {"items before the target": f"{line['from']}-{end}", "rows": f"{line['rows']:,}"}
            | {
                name: f"{accuracy['mrr@20']:.4f} {_bounds(accuracy)}"
                for name, accuracy in line["accuracy"].items()
            }
            | ({"kept": f"{line['kept_blocks']:.2f}"} if "kept_blocks" in line else {})
        )
    table = _table(tuple(lines[0]), lines)
    return [*table, "", "MRR@20 with 95 % intervals over users; kept: mean number of blocks."]


def _times(report: Report) -> list[str]:
    lines = []
    for batch, timing in report["timing"].items():
        lines += [f"### Batch {batch} ({timing['rounds']} paired rounds)", ""]
        lines += _table(
            ("name", "users/s", "p50", "p95", "p99", *TIMED_SPEEDUPS), _time_cells(timing)
        )
        text = "p50, p95, p99 in milliseconds, end to end."
        if "amdahl" in timing:
            text += f" {_amdahl(timing['amdahl'])}"
        lines += ["", text, ""]
        if "warm" in timing and timing["warm"]["speedups"]:
            lines += [f"Warm: {_warm(timing['warm'])}", ""]
    if "native" in report:
        lines += [_agreement(report["native"]), ""]
    return lines[:-1]


def _warm(timing: Timing) -> str:
    """The speedups where the same arm ran just before."""
    parts = [
        f"{name} {_speedup(speedups, 'speedup_end_to_end')}"
        for name, speedups in timing["speedups"].items()
        if "speedup_end_to_end" in speedups
    ]
    text = f"end to end {', '.join(parts)}."
    return f"{text} {_amdahl(timing['amdahl'])}" if "amdahl" in timing else text


def _agreement(native: NativeAgreement) -> str:
    text = (
        f"The timed executor against PyTorch: of {native['rows']:,} lists "
        f"{native['lists_differ']:,} differ"
    )
    if native["lists_differ"]:
        text += f", by scores that are at most {native['largest_gap']:.1e} of the largest apart"
    text += f"; of the decisions {native['decisions_differ']:,}."
    if "mrr" in native:
        text += f" MRR of its lists {native['mrr']:.4f}, of PyTorch's {native['mrr_pytorch']:.4f}."
    return text


def _time_cells(timing: Timing) -> list[Cells]:
    lines: list[Cells] = []
    for name, per_s in timing["users_per_s"].items():
        latency = timing["latency"][stage_name(arm_named(name), "end")]
        speedups = timing["speedups"].get(name, {})
        lines.append(
            {"name": name, "users/s": f"{per_s:,.0f}"}
            | {q: f"{1000 * value_of(latency, f'{q}_s'):.2f}" for q in ("p50", "p95", "p99")}
            | {speedup: _speedup(speedups, speedup) for speedup in TIMED_SPEEDUPS}
        )
    masked = timing["speedups"].get(MASKED.name)
    if masked is not None:
        lines.append({"name": MASKED.name, "speedup_blocks": _speedup(masked, "speedup_blocks")})
    return lines


def _amdahl(amdahl: Amdahl) -> str:
    return (
        f"Blocks are {100 * amdahl['blocks_share_of_full']:.0f} % of the full time, the policy "
        f"adds {100 * amdahl['policy_share_of_full']:.0f} %. Amdahl: {amdahl['predicted']:.2f}x "
        f"end to end at this keep rate, {amdahl['limit_if_all_blocks_were_free']:.2f}x if no "
        f"block ran; measured {amdahl['measured']:.2f}x."
    )


def _table(columns: Sequence[str], lines: Sequence[Cells]) -> list[str]:
    headings = [HEADINGS.get(name, name.upper() if "@" in name else name) for name in columns]
    rows = [[_cell(line, name) for name in columns] for line in lines]
    return markdown_table(headings, rows, compact_rule=True)


def _cell(cells: Cells, name: str) -> str:
    value = cells.get(name)
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    if name == "keep_frac":
        return f"{value:.2f}"
    return f"{value:.2f}x" if name in SPEEDUPS else f"{value:.4f}"


def _speedup(speedups: Mapping[str, object], name: str) -> str | None:
    if name not in speedups:
        return None
    return with_interval(value_of(speedups, name), interval_of(speedups, name), ".2f", "x")


def _optional(value: float | None) -> str:
    return "none (one of them does not vary)" if value is None else f"{value:+.2f}"


def _plain(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {inner}" for key, inner in value.items())
    if isinstance(value, list | tuple):
        return " ".join(str(inner) for inner in value)
    return str(value)
