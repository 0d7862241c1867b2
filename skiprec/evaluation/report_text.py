"""`report.md`, and the short table for the terminal, from the contents of `report.json`."""

from typing import Any

Record = dict[str, Any]

ACCURACY = ("mrr@5", "mrr@20", "hr@5", "hr@20", "hr@10", "ndcg@10")
SPEEDUPS = ("speedup_flops", "speedup_blocks", "speedup_policy", "speedup_end_to_end")
HEADINGS = {
    "name": "",
    "keep_frac": "kept",
    "speedup_flops": "FLOPs",
    "speedup_blocks": "blocks",
    "speedup_policy": "+ policy",
    "speedup_end_to_end": "end to end",
}
PICTURES = {
    "keep_heat_map.png": "blocks kept for each user",
    "kept_blocks.png": "how many blocks users keep",
    "block_keep_rates.png": "keep rate of each block",
    "speed_accuracy.png": "speed against accuracy",
}


def terminal_table(report: Record) -> str:
    """The rows in fixed columns; speedups at the first batch size."""
    columns = ("name", "mrr@5", "mrr@20", "hr@5", "hr@20", "keep_frac", *SPEEDUPS)
    cells = [[HEADINGS.get(c, c.upper()) for c in columns]]
    cells += [[_cell(row, c) for c in columns] for row in report["rows"]]
    widths = [max(len(line[i]) for line in cells) for i in range(len(columns))]
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
        "those already in the history). FLOPs: end to end, policy and head included. Times at "
        f"batch {conditions['batch']}, each the median of paired ratios to the full network "
        "(all blocks, no policy): blocks only; blocks + policy; end to end (embedding, policy, "
        "dispatch, blocks, head, top 20)."
    )
    if conditions["exclude_seen"]:
        text += " own_frequent and last_items recommend seen items, so they have no row here."
    if report["policy"] is not None:
        text += (
            " random, fixed, shuffled: the same weights at the same rate (shuffled costs what "
            "skiprec does and is not timed). masked computes every block and throws the skipped "
            "ones away; oracle gets skiprec's decisions for free; shallow is a static net of the "
            f"first {report['policy']['num_fixed_blocks']} blocks."
        )
    return text


def _differences(report: Record) -> list[str]:
    records = [
        {"name": f"{d['of']} minus {d['minus']}"}
        | {
            m: f"{d[m]:+.4f} [{d[f'{m}_interval'][0]:+.4f}, {d[f'{m}_interval'][1]:+.4f}]"
            for m in ("mrr@5", "mrr@20", "hr@20", "ndcg@10")
        }
        for d in report["differences"]
    ]
    table = _markdown_table(("name", "mrr@5", "mrr@20", "hr@20", "ndcg@10"), records)
    return [*table, "", "95 % intervals over users, all rows of a user together, same resamples."]


def _policy(report: Record) -> list[str]:
    policy, num_blocks = report["policy"], len(report["policy"]["keep_rate_of_block"])
    return [
        f"- blocks kept: mean {policy['kept_blocks_mean']:.2f} of {num_blocks}, standard deviation "
        f"{policy['kept_blocks_std']:.2f}; {policy['distinct_decisions']} distinct decisions",
        f"- {100 * policy['between_user_share']:.1f} % of the variance of decisions lies between "
        "users (the rest is between blocks: the same for everyone)",
        f"- correlation of kept blocks with the history's length: "
        f"{_optional(policy['kept_length_correlation'])}; with the time at batch 1: "
        f"{_optional(policy.get('kept_time_correlation'))} "
        f"({policy.get('timed_rows', 0)} timed rows)",
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
