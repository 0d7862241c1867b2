"""`headroom.md` and the terminal's tables, from the contents of `headroom.json`."""

from typing import Any

Record = dict[str, Any]


def headroom_markdown(report: Record) -> str:
    """The whole report for people."""
    conditions = report["conditions"]
    lines = [f"# Headroom of personal depth: {conditions['name']}", ""]
    lines += [*(f"- {text}" for text in report["statements"]), "", *headroom_tables(report), ""]
    lines += ["![accuracy against depth](headroom.png)", "", "## The nest", ""]
    order = " ".join(str(block) for block in report["removed_first"])
    lines += [f"Blocks in the order in which they are taken out: {order}.", ""]
    lines += _table(
        ("blocks", "MRR@20", "cost in nats"),
        [
            (str(r["kept_blocks"]), _with(r, "mrr@20"), _with(r, "cost_nats", ".3f"))
            for r in report["sets"]
        ],
    )
    lines += ["", "## Conditions", ""]
    lines += [f"- {key}: {value}" for key, value in conditions.items()]
    return "\n".join(lines) + "\n"


def headroom_tables(report: Record) -> list[str]:
    """Sizes, pairs and curve; every interval is of 95 % over users."""
    fit_rows = f"cost in nats, {report['conditions']['fit_split']} rows"
    lines = ["Sets of the nest, on held-out rows; correlation of predicted with true cost:", ""]
    lines += _table(
        ("blocks", "MRR@20", "cost in nats", fit_rows, "correlation"),
        [
            (
                str(r["kept_blocks"]),
                _with(r, "mrr@20"),
                _with(r, "cost_nats", ".3f"),
                f"{r['cost_nats_fit_rows']:.3f}",
                "" if r.get("correlation") is None else _with(r, "correlation", ".3f"),
            )
            for r in report["sizes"]
        ],
    )
    lines += ["", "The half with the lower predicted loss gets the shallow set:", ""]
    lines += _table(
        (
            "shallow / deep",
            "MRR@20",
            "random half",
            "minus random half",
            "minus the frontier",
            "minus its hull",
        ),
        [
            (
                f"{r['shallow']} / {r['deep']}",
                f"{r['mrr@20']:.4f}",
                f"{r['random_half']:.4f}",
                _with(r["minus_random_half"], "mrr@20", "+.4f"),
                _with(r["minus_frontier"], "mrr@20", "+.4f"),
                _with(r["minus_hull"], "mrr@20", "+.4f"),
            )
            for r in report["pairs"]
        ],
    )
    text = "Each user by the least predicted cost + price * share of the blocks"
    lines += ["", f"{text}; nats are minus the frontier, too:", ""]
    lines += _table(
        ("price", "mean blocks", "MRR@20", "minus the frontier", "minus its hull", "nats"),
        [
            (
                f"{r['price']:.4g}",
                f"{r['kept_blocks']:.2f}",
                f"{r['mrr@20']:.4f}",
                _with(r["minus_frontier"], "mrr@20", "+.4f"),
                _with(r["minus_hull"], "mrr@20", "+.4f"),
                _with(r["nats_minus_frontier"], "nats", "+.4f"),
            )
            for r in report["curve"]
        ],
    )
    return lines


def _table(heading: tuple[str, ...], rows: list[tuple[str, ...]]) -> list[str]:
    """A table that reads well as plain text, too."""
    widths = [max(len(row[i]) for row in (heading, *rows)) for i in range(len(heading))]
    rule = tuple("-" * (width - 1) + ":" for width in widths)
    return [
        "| " + " | ".join(c.rjust(w) for c, w in zip(row, widths, strict=True)) + " |"
        for row in (heading, rule, *rows)
    ]


def _with(record: Record, name: str, how: str = ".4f") -> str:
    low, high = record[f"{name}_interval"]
    return f"{record[name]:{how}} [{low:{how}}, {high:{how}}]"
