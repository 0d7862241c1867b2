"""`headroom.md` and the terminal's tables, from the contents of `headroom.json`."""

from collections.abc import Mapping

from skiprec.evaluation.headroom.schema import HeadroomReport
from skiprec.evaluation.report.schema import interval_of, value_of
from skiprec.observability.markdown import markdown_table, with_interval


def headroom_markdown(report: HeadroomReport) -> str:
    """The contents of `headroom.md`."""
    conditions = report["conditions"]
    lines = [f"# Headroom of personal depth: {conditions['name']}", ""]
    lines += [*(f"- {text}" for text in report["statements"]), "", *headroom_tables(report), ""]
    lines += ["![accuracy against depth](headroom.png)", "", "## The nest", ""]
    removed = report["removed_first"]
    if removed is None:
        lines += ["The first blocks up to each exit.", ""]
    else:
        order = " ".join(str(block) for block in removed)
        lines += [f"Blocks in the order in which they are taken out: {order}.", ""]
    lines += markdown_table(
        ("blocks", "MRR@20", "cost in nats"),
        [
            (
                str(nested_set["kept_blocks"]),
                _number(nested_set, "mrr@20"),
                _number(nested_set, "cost_nats", ".3f"),
            )
            for nested_set in report["sets"]
        ],
        padded=True,
    )
    lines += ["", "## Conditions", ""]
    lines += [f"- {key}: {value}" for key, value in conditions.items()]
    return "\n".join(lines) + "\n"


def headroom_tables(report: HeadroomReport) -> list[str]:
    """The lines of the tables of sizes, pairs and the curve; 95 % intervals over users."""
    fit_rows = f"cost in nats, {report['conditions']['fit_split']} rows"
    lines = ["Sets of the nest, on held-out rows; correlation of predicted with true loss:", ""]
    lines += markdown_table(
        ("blocks", "MRR@20", "cost in nats", fit_rows, "correlation"),
        [
            (
                str(predicted_set["kept_blocks"]),
                _number(predicted_set, "mrr@20"),
                _number(predicted_set, "cost_nats", ".3f"),
                f"{predicted_set['cost_nats_fit_rows']:.3f}",
                ""
                if predicted_set.get("correlation") is None
                else _number(predicted_set, "correlation", ".3f"),
            )
            for predicted_set in report["sizes"]
        ],
        padded=True,
    )
    lines += ["", "The half with the lower predicted loss gets the shallow set:", ""]
    lines += markdown_table(
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
                f"{pair['shallow']} / {pair['deep']}",
                f"{pair['mrr@20']:.4f}",
                f"{pair['random_half']:.4f}",
                _number(pair["minus_random_half"], "mrr@20", "+.4f"),
                _number(pair["minus_frontier"], "mrr@20", "+.4f"),
                _number(pair["minus_hull"], "mrr@20", "+.4f"),
            )
            for pair in report["pairs"]
        ],
        padded=True,
    )
    text = "Each user by the least predicted loss of MRR@20 + price * share of the blocks"
    lines += ["", f"{text}; nats are minus the frontier, too:", ""]
    lines += markdown_table(
        ("price", "mean blocks", "MRR@20", "minus the frontier", "minus its hull", "nats"),
        [
            (
                f"{point['price']:.4g}",
                f"{point['kept_blocks']:.2f}",
                f"{point['mrr@20']:.4f}",
                _number(point["minus_frontier"], "mrr@20", "+.4f"),
                _number(point["minus_hull"], "mrr@20", "+.4f"),
                _number(point["nats_minus_frontier"], "nats", "+.4f"),
            )
            for point in report["curve"]
        ],
        padded=True,
    )
    return lines


def _number(record: Mapping[str, object], name: str, form: str = ".4f") -> str:
    return with_interval(value_of(record, name), interval_of(record, name), form)
