"""`report.md`, and the short table for the terminal, from the contents of `report.json`."""

from typing import Any

Record = dict[str, Any]

ACCURACY = ("mrr@5", "mrr@20", "hr@5", "hr@20", "hr@10", "ndcg@10")
SPEEDUPS = ("speedup_flops", "speedup_blocks", "speedup_policy", "speedup_end_to_end")
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
PICTURES = {
    "frontier.png": "accuracy against depth: fixed sets and the learned policy",
    "keep_heat_map.png": "blocks kept for each user",
    "kept_blocks.png": "how many blocks users keep",
    "block_keep_rates.png": "keep rate of each block",
    "speed_accuracy.png": "speed against accuracy",
}


def terminal_cells(report: Record) -> list[list[str]]:
    """The headings, then the cells of each row; speedups at the first batch size."""
    columns = ("name", "mrr@5", "mrr@20", "hr@5", "hr@20", "keep_frac", *SPEEDUPS)
    headings = [HEADINGS.get(c, c.upper()) for c in columns]
    return [headings, *([_cell(row, c) for c in columns] for row in report["rows"])]


def terminal_table(report: Record) -> str:
    """The rows in fixed columns; speedups at the first batch size."""
    cells = terminal_cells(report)
    widths = [max(len(line[i]) for line in cells) for i in range(len(cells[0]))]
    return "\n".join(
        "  ".join(
            c.ljust(w) if i == 0 else c.rjust(w)
            for i, (c, w) in enumerate(zip(line, widths, strict=True))
        )
        for line in cells
    )


def report_markdown(report: Record, pictures: list[str]) -> str:
    """The whole report for people."""
    conditions = report["conditions"]
    lines = [
        f"# Evaluation of {conditions['name']}",
        "",
        *(f"- {text}" for text in report["statements"]),
        "",
    ]
    lines += ["## Accuracy and speed", ""]
    lines += _markdown_table(("name", *ACCURACY, "keep_frac", *SPEEDUPS), report["rows"])
    lines += ["", _how_to_read(report), ""]
    if report["differences"]:
        lines += ["## Paired differences", "", *_differences(report), ""]
    if report["policy"] is not None:
        lines += ["## The frontier of fixed sets", "", *frontier_lines(report["frontier"]), ""]
        lines += ["## Per user", "", *_policy(report), ""]
    if report["timing"]:
        lines += ["## Times", "", *_times(report), ""]
    lines += [f"![{PICTURES[name]}]({name})" for name in pictures]
    lines += ["", "## Conditions", ""]
    lines += [f"- {key}: {_plain(value)}" for key, value in conditions.items()]
    return "\n".join(lines) + "\n"


def _how_to_read(report: Record) -> str:
    conditions = report["conditions"]
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
    else:
        text += "Times were not taken (evaluation.timing_batches is empty)."
    if conditions["exclude_seen"]:
        text += " own_frequent and last_items recommend seen items, so they have no row here."
    if report["policy"] is not None:
        text += (
            " random, fixed, shuffled: the same weights at the same rate (shuffled costs what "
            "skiprec does and is not timed). frontier: a coin between the two fixed sets whose "
            "sizes lie around skiprec's mean, such that its mean is the same; hull: between those "
            "two of all fixed sets that reach most with it."
        )
    if report["policy"] is not None and report["timing"]:
        text += (
            " masked computes every block and throws the skipped ones away; oracle gets skiprec's "
            "decisions for free; shallow is a static net of the "
            f"first {report['policy']['num_fixed_blocks']} blocks."
        )
    return text


def _differences(report: Record) -> list[str]:
    records = [
        {"name": f"{d['of']} minus {d['minus']}"}
        | {m: _signed(d, m) for m in ("mrr@5", "mrr@20", "hr@20", "ndcg@10")}
        for d in report["differences"]
    ]
    table = _markdown_table(("name", "mrr@5", "mrr@20", "hr@20", "ndcg@10"), records)
    return [*table, "", "95 % intervals over users, all rows of a user together, same resamples."]


def frontier_lines(frontier: Record) -> list[str]:
    """The fixed sets, then what the policy reaches at its settings and above the sets."""
    columns = ("blocks", "mrr@5", "mrr@20", "mrr@20_interval", "hr@20", "ndcg@10")
    sets = [
        record | {"which": _listed(record["blocks"]), "blocks": str(record["kept_blocks"])}
        for record in frontier["sets"]
    ]
    lines = ["For everyone, the blocks that the policy keeps most:", ""]
    lines += _markdown_table((*columns, "speedup_flops", "which"), [_readable(r) for r in sets])
    hull = ", ".join(str(size) for size in frontier["hull"])
    lines += ["", f"Coins between neighbours among {hull} blocks reach the most (the hull)."]
    knob = frontier["knob"]
    records = [{"setting": "served", **frontier["served"]}]
    if knob is not None:
        records[0]["setting"] = f"{knob['served']:.4g} (served)"
        records += [
            record | {"setting": f"{record['setting']:.4g}"} for record in frontier["learned"]
        ]
    text = "The policy's own decisions, and what they are above the frontier at the same mean:"
    if knob is not None:
        text = f"The policy at settings of its {knob['name']}; minus the frontier of the same mean:"
    return [
        *lines,
        "",
        text,
        "",
        *_markdown_table(
            ("setting", *columns, "minus_frontier", "minus_hull", "speedup_flops"),
            [
                _readable(record)
                | {
                    "blocks": f"{record['kept_blocks']:.2f}",
                    "minus_frontier": _signed(record["minus_frontier"], "mrr@20"),
                    "minus_hull": _signed(record["minus_hull"], "mrr@20"),
                }
                for record in records
            ],
        ),
    ]


def _readable(record: Record) -> Record:
    low, high = record["mrr@20_interval"]
    return record | {"mrr@20_interval": f"[{low:.4f}, {high:.4f}]"}


def _signed(record: Record, metric: str) -> str:
    low, high = record[f"{metric}_interval"]
    return f"{record[metric]:+.4f} [{low:+.4f}, {high:+.4f}]"


def _listed(blocks: list[int]) -> str:
    """`0-3 7 9-10`."""
    parts: list[list[int]] = []
    for block in blocks:
        if parts and block == parts[-1][-1] + 1:
            parts[-1].append(block)
        else:
            parts.append([block])
    return " ".join(str(p[0]) if len(p) == 1 else f"{p[0]}-{p[-1]}" for p in parts) or "none"


def _policy(report: Record) -> list[str]:
    policy, num_blocks = report["policy"], len(report["policy"]["keep_rate_of_block"])
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


def _times(report: Record) -> list[str]:
    lines = []
    for batch, timing in report["timing"].items():
        lines += [f"### Batch {batch} ({timing['rounds']} paired rounds)", ""]
        records = []
        for arm, per_s in timing["users_per_s"].items():
            latency = timing["latency"][f"{arm}/end"]
            speed = timing["speedups"].get(arm, {})
            records.append(
                {"name": arm, "users/s": f"{per_s:,.0f}"}
                | {q: f"{1000 * latency[f'{q}_s']:.2f}" for q in ("p50", "p95", "p99")}
                | {s: _with_interval(speed, s) for s in SPEEDUPS[1:]}
            )
        masked = timing["speedups"].get("masked")
        if masked is not None:
            records.append(
                {"name": "masked", "speedup_blocks": _with_interval(masked, SPEEDUPS[1])}
            )
        lines += _markdown_table(("name", "users/s", "p50", "p95", "p99", *SPEEDUPS[1:]), records)
        lines += ["", "p50, p95, p99 in milliseconds, end to end."]
        if "amdahl" in timing:
            a = timing["amdahl"]
            lines[-1] += (
                f" Blocks are {100 * a['blocks_share_of_full']:.0f} % of the full time, the policy "
                f"adds {100 * a['policy_share_of_full']:.0f} %. Amdahl: {a['predicted']:.2f}x end "
                f"to end at this keep rate, {a['limit_if_all_blocks_were_free']:.2f}x if no block "
                f"ran; measured {a['measured']:.2f}x."
            )
        lines += [""]
    return lines[:-1]


def _markdown_table(columns: tuple[str, ...], records: list[Record]) -> list[str]:
    heading = "| " + " | ".join(HEADINGS.get(c, c.upper() if "@" in c else c) for c in columns)
    lines = [heading + " |", "|---" + "|---:" * (len(columns) - 1) + "|"]
    return lines + ["| " + " | ".join(_cell(r, c) for c in columns) + " |" for r in records]


def _cell(record: Record, name: str) -> str:
    value = record.get(name)
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    return (
        f"{value:.2f}"
        if name == "keep_frac"
        else (f"{value:.2f}x" if name.startswith("speedup") else f"{value:.4f}")
    )


def _with_interval(record: Record, name: str) -> str | None:
    if record.get(name) is None:
        return None
    low, high = record[f"{name}_interval"]
    return f"{record[name]:.2f}x [{low:.2f}, {high:.2f}]"


def _optional(value: float | None) -> str:
    return "none (one of them does not vary)" if value is None else f"{value:+.2f}"


def _plain(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {inner}" for key, inner in value.items())
    if isinstance(value, list | tuple):
        return " ".join(str(inner) for inner in value)
    return str(value)
