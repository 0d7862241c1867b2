"""Tables and numbers with intervals in Markdown, as all reports write them."""

from collections.abc import Sequence


def markdown_table(
    headings: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    num_text_columns: int = 1,
    compact_rule: bool = False,
    padded: bool = False,
) -> list[str]:
    """The lines of a table.

    Args:
        num_text_columns: the first columns, which hold text and are aligned to the left; the
            others hold numbers and are aligned to the right.
        compact_rule: no spaces in the line below the headings.
        padded: fills the cells up to one width a column, so that the table also reads well as
            plain text; all columns are aligned to the right.
    """
    rule = ["---" if index < num_text_columns else "---:" for index in range(len(headings))]
    if padded:
        widths = [max(map(len, column)) for column in zip(headings, *rows, strict=True)]
        rule = ["-" * (width - 1) + ":" for width in widths]
        headings, *rows = [
            [cell.rjust(width) for cell, width in zip(cells, widths, strict=True)]
            for cells in (headings, *rows)
        ]
    rule_line = f"|{'|'.join(rule)}|" if compact_rule else _line(rule)
    return [_line(headings), rule_line, *map(_line, rows)]


def with_interval(value: float, interval: Sequence[float], form: str, unit: str = "") -> str:
    """`value [low, high]`, each in the format `form`; the unit follows the value."""
    low, high = interval
    return f"{value:{form}}{unit} [{low:{form}}, {high:{form}}]"


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
