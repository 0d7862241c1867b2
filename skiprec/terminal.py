"""What people see on a terminal: one moving line, the messages above it, and drawn tables.

Where standard output is no terminal (a pipe, a file, the log of a Ray job), each text is printed
as a plain line and each table as plain text. The variable `NO_COLOR` turns colours off.
Only this module imports rich, and no other module of `skiprec` imports this one.
"""

import functools
import re
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from rich import box
from rich.console import Console, ConsoleOptions, RenderResult
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from skiprec.observability.sinks import duration_text

BAR_WIDTH = 20
REFRESHES_PER_S = 4.0
# "read 1,200 interactions", "fetched 10 of 20 bytes", "fetched 10 of ? bytes"
COUNT = re.compile(r"\w+ ([\d,]+)(?: of ([\d,]+|\?))? \w+")
# The parts of a table's cells that are not broken, from the widest to the narrowest table.
LINES, INTERVALS, WORDS = map(re.compile, (r".+", r"\[[^\]]*\]|\S+", r"\S+"))
RULE = re.compile(r"\|(?: *:?-+:? *\|)+")

_parts: list[str] = []
_lines: list["MovingLine"] = []


@functools.cache
def _console() -> Console:
    return Console(markup=False, highlight=False, emoji=False)


def is_terminal() -> bool:
    """Whether standard output is a terminal that can redraw a line."""
    return sys.stdout.isatty() and not _console().is_dumb_terminal


def say(text: str) -> None:
    """Prints a line that stays; it appears above the moving line."""
    if is_terminal():
        _console().print(Text(text), soft_wrap=True)
    else:
        print(text, flush=True)


@dataclass
class Pace:
    """The speed of one piece of work, from its first report to its latest."""

    start_s: float
    first_s: float | None = None
    first_done: int = 0
    latest_s: float = 0.0
    done: int = 0
    total: int | None = None

    def report(self, now_s: float, done: int, total: int | None) -> None:
        """Takes how much is done now, and of how much if that is known."""
        if self.first_s is None:
            self.first_s, self.first_done = now_s, done
        self.latest_s, self.done, self.total = now_s, done, total

    def text(self, now_s: float) -> str:
        """`3.1/s  12s left`, as far as both are known; otherwise the time that has passed."""
        if self.first_s is None or self.done <= self.first_done or self.latest_s <= self.first_s:
            return duration_text(now_s - self.start_s)
        per_s = (self.done - self.first_done) / (self.latest_s - self.first_s)
        rate = f"{per_s:,.0f}/s" if per_s >= 10 else f"{per_s:.2g}/s"
        if self.total is None:
            return rate
        left_s = (self.total - self.done) / per_s - (now_s - self.latest_s)
        return f"{rate}  {duration_text(max(0.0, left_s))} left"


class MovingLine:
    """Shows how far one piece of work is. `moving_line` makes and opens one.

    Args:
        name: stands before each text, as `[name]`; empty for none.
        text: what a terminal shows before the first report.
        plain_every_s: off a terminal, reports that follow the last line sooner are left out.
        estimates: whether a terminal adds the speed and the time left to each report.
    """

    def __init__(self, name: str, text: str, plain_every_s: float, estimates: bool):
        self.name, self.text, self.estimates = name, text, estimates
        self.plain_every_s, self.printed_s = plain_every_s, time.monotonic()
        self.reported = ""
        self.pace = Pace(time.monotonic())
        self.spinner = Spinner("dots", style="cyan")
        self.is_drawn = is_terminal()

    def say(self, text: str) -> None:
        """Prints a line that stays."""
        say(self._named(text))

    def show(self, text: str, done: int | None = None, total: int | None = None) -> None:
        """Replaces the text of the moving line; off a terminal it prints the text."""
        now = time.monotonic()
        if done is None:
            self.pace = Pace(now)
        else:
            self.pace.report(now, done, total)
        self.text = self.reported = text
        if not self.is_drawn and now - self.printed_s >= self.plain_every_s:
            self.printed_s = now
            self.say(text)

    def report(self, text: str) -> None:
        """Shows a text of a dataset builder or a download, with the numbers that are in it.

        A text replaces the last one if both begin with the same word, as in `read 10 rows`,
        `read 20 rows`. Otherwise the last text stays above.
        """
        if self.reported.split(" ")[0] != text.split(" ")[0]:
            self._keep_report()
            self.pace = Pace(time.monotonic())
        count = COUNT.fullmatch(text)
        if count is None:
            self.show(text)
        else:
            done, total = (
                int(number.replace(",", "")) if number and number != "?" else None
                for number in count.groups()
            )
            self.show(text, done, total)

    def close(self) -> None:
        """Leaves the last report above, as a line that stays."""
        self._keep_report()

    def _keep_report(self) -> None:
        if self.is_drawn and self.reported:
            self.say(self.reported)
        self.reported = ""

    def _named(self, text: str) -> str:
        return f"[{self.name}] {text}" if self.name else text

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        now = time.monotonic()
        label = "  ".join([*_parts, self.name] if self.name else _parts)
        total = self.pace.total
        bar = ProgressBar(
            total=total or None,
            completed=self.pace.done if total else 0,
            width=BAR_WIDTH,
            pulse=not total,
            animation_time=now,
        )
        text = Text(self.text, no_wrap=True, overflow="ellipsis")
        if self.estimates:
            text.append(f"  {self.pace.text(now)}", style="dim")
        row = Table.grid(padding=(0, 1))
        row.add_column(no_wrap=True)
        if label:
            row.add_column(no_wrap=True, max_width=max(8, options.max_width // 3))
        row.add_column(width=BAR_WIDTH)
        row.add_column(no_wrap=True, overflow="ellipsis")
        spinner = Text("*") if options.ascii_only else self.spinner.render(now)
        labels = [Text(label, style="cyan", overflow="ellipsis")] if label else []
        row.add_row(spinner, *labels, bar, text)
        yield row


@contextmanager
def moving_line(
    name: str = "",
    text: str = "",
    *,
    plain_every_s: float = 0.0,
    estimates: bool = True,
    refreshes_per_s: float = REFRESHES_PER_S,
) -> Iterator[MovingLine]:
    """A moving line for the work inside the block; see `MovingLine` for the arguments.

    The line and the hidden cursor are put in order at the end, also after Ctrl-C.
    """
    line = MovingLine(name, text, plain_every_s, estimates)
    _lines.append(line)
    try:
        if not line.is_drawn:
            yield line
            return
        live = Live(
            line,
            console=_console(),
            transient=True,
            refresh_per_second=refreshes_per_s,
            redirect_stderr=sys.stderr.isatty(),  # a file that takes stderr must keep getting it
        )
        try:
            live.start()  # inside `try`, because Ctrl-C may come when it has hidden the cursor
            yield line
        finally:
            line.close()
            live.stop()
    finally:
        _lines.remove(line)


def current_line() -> MovingLine:
    """The innermost open line, for code that cannot be handed one; without one, a plain line."""
    return _lines[-1] if _lines else MovingLine("", "", 0.0, False)


@contextmanager
def part_of(text: str) -> Iterator[None]:
    """Moving lines inside the block begin with this text, such as `run 3 of 12`."""
    _parts.append(text)
    try:
        yield
    finally:
        _parts.pop()


def print_prose(text: str) -> None:
    """Prints a sentence or more; a terminal gets line breaks between words."""
    if is_terminal():
        _console().print(Text(text))
    else:
        print(text, flush=True)


def print_table(cells: Sequence[Sequence[str]], plain: str) -> None:
    """Draws a table whose first row is its heading; off a terminal it prints `plain`."""
    if is_terminal():
        _draw_table(cells, ["left"] + ["right"] * (len(cells[0]) - 1))
    else:
        print(plain, flush=True)


def print_markdown(text: str) -> None:
    """Prints a Markdown text; a terminal gets its tables drawn and its headings bold."""
    if not is_terminal():
        print(text, flush=True)
        return
    table: list[str] = []
    for line in [*text.splitlines(), ""]:
        if line.startswith("|"):
            table.append(line)
            continue
        if len(table) > 1 and RULE.fullmatch(table[1]):
            heading, rule, *rows = ([cell.strip() for cell in _cells(row)] for row in table)
            sides = ["right" if cell.endswith(":") else "left" for cell in rule]
            _draw_table([heading, *rows], sides)
        else:
            for row in table:
                say(row)
        table = []
        style = "bold" if line.startswith("#") else ""
        _console().print(Text(line.lstrip("# ") if style else line, style=style), soft_wrap=True)


def _cells(row: str) -> list[str]:
    return row.strip().removeprefix("|").removesuffix("|").split("|")


def _draw_table(cells: Sequence[Sequence[str]], sides: Sequence[str]) -> None:
    """Draws the table; one that is wider than the terminal has its cells wrapped between words.

    An interval counts as one word while that fits. A table that is still too wide runs over the
    edge, because cutting it would lose cells.
    """
    room = _console().width - 3 * len(sides) + 1  # two blanks around a cell, one between columns
    at_intervals = [[cell.replace(" [", "\n[") for cell in row] for row in cells]
    for texts, whole in ((cells, LINES), (at_intervals, INTERVALS), (cells, WORDS)):
        least = _widths(texts, whole)
        if sum(least) <= room:
            break
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, header_style="bold")
    for index, width in enumerate(_fitted(least, _widths(texts, LINES), room)):
        table.add_column(
            Text(texts[0][index]),
            justify="right" if sides[index] == "right" else "left",
            style="" if index else "cyan",
            min_width=width,
            max_width=width,
        )
    for row in texts[1:]:
        table.add_row(*map(Text, row))
    _console().print(table, crop=False)


def _widths(cells: Sequence[Sequence[str]], whole: re.Pattern[str]) -> list[int]:
    """For each column, the length of its longest part that is not broken."""
    return [
        max((len(text) for cell in column for text in whole.findall(cell)), default=0)
        for column in zip(*cells, strict=True)
    ]


def _fitted(least: Sequence[int], most: Sequence[int], room: int) -> list[int]:
    """The least widths, and what room is left given to the narrowest columns that need more."""
    widths = list(least)
    while sum(widths) < room:
        narrow = [index for index, width in enumerate(widths) if width < most[index]]
        if not narrow:
            break
        widths[min(narrow, key=widths.__getitem__)] += 1
    return widths
