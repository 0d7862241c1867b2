"""What jobs show on a terminal and off it; the terminals are real ones of other processes."""

import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from skiprec.terminal import (
    Pace,
    current_line,
    moving_line,
    part_of,
    print_markdown,
    print_table,
    say,
)

ROOT = Path(__file__).parents[2]
COLOUR = re.compile(r"\x1b\[(?:\d+;)*(?:[34][0-8]|9[0-7]|10[0-7])(?:;\d+)*m")
CONTROL = re.compile(r"\x1b\[\??[\d;]*[A-Za-z]|\r")
HIDE, SHOW = "\x1b[?25l", "\x1b[?25h"
MARKDOWN = "# Title\n\n| name | MRR@20 |\n|---|---:|\n| one [a] | 0.25 |\n\n- a note\n"

WORK = """
import time
from skiprec.terminal import moving_line, part_of, print_markdown, say
for number in (1, 2):
    with part_of(f"run {number} of 2"), moving_line(f"net-{number}", "starting") as line:
        time.sleep(0.4)
        for step in range(1, 5):
            line.show(f"scored {step} of 4 units", step, 4)
            time.sleep(0.3)
            if step == 2:
                line.say("halfway")
                print("printed by a library")
"""
READY = """
import time
from skiprec.terminal import moving_line
with moving_line("net", "ready for Ctrl-C"):
    time.sleep(60)
"""
TABLE = f"from skiprec.terminal import print_markdown; print_markdown({MARKDOWN!r})"


def in_terminal(code: str, ctrl_c_after: str = "", **env: str) -> str:
    """All that a Python program writes to a terminal of its own, control sequences included."""
    plain = {key: value for key, value in os.environ.items() if key not in ("NO_COLOR", "COLUMNS")}
    pid, terminal = pty.fork()
    if pid == 0:
        variables = plain | {"PYTHONPATH": str(ROOT), "TERM": "xterm-256color"} | env
        os.execve(sys.executable, [sys.executable, "-c", code], variables)
    text, deadline = "", time.monotonic() + 60
    while time.monotonic() < deadline:
        if not select.select([terminal], [], [], 1.0)[0]:
            continue
        try:
            data = os.read(terminal, 4096)
        except OSError:  # Linux reports the end of a terminal's last process this way
            data = b""
        if not data:
            break
        text += data.decode()
        if ctrl_c_after and ctrl_c_after in text:
            os.write(terminal, b"\x03")
            ctrl_c_after = ""
    else:
        os.kill(pid, signal.SIGKILL)
        pytest.fail(f"the program did not end: {text[-2000:]}")
    os.waitpid(pid, 0)
    os.close(terminal)
    return text


def on_screen(text: str) -> list[str]:
    """The lines that are on the screen in the end, without those that are empty."""
    rows, row, column = [""], 0, 0
    for part in re.findall(r"\x1b\[\??[\d;]*[A-Za-z]|\r|\n|[^\x1b\r\n]+", text):
        if part == "\n":
            row, rows = row + 1, [*rows, ""] if row + 1 == len(rows) else rows
        elif part == "\r":
            column = 0
        elif part.endswith("A") and part.startswith("\x1b"):
            row -= int(part[2:-1] or 1)
        elif part == "\x1b[2K":
            rows[row] = ""
        elif not part.startswith("\x1b"):
            rows[row] = rows[row].ljust(column)[:column] + part + rows[row][column + len(part) :]
            column += len(part)
    return [line.rstrip() for line in rows if line.strip()]


def test_off_a_terminal_every_text_is_a_plain_line() -> None:
    done = subprocess.run(
        [sys.executable, "-c", WORK],
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | {"PYTHONPATH": str(ROOT), "FORCE_COLOR": "1", "TERM": "xterm-256color"},
    )
    expected = []
    for net in ("net-1", "net-2"):
        units = [f"[{net}] scored {step} of 4 units" for step in range(1, 5)]
        expected += [*units[:2], f"[{net}] halfway", "printed by a library", *units[2:]]
    assert done.stdout.splitlines() == expected
    assert not done.stderr


def test_on_a_terminal_one_line_moves_and_messages_stay_above_it() -> None:
    text = in_terminal(WORK)
    assert on_screen(text) == [
        "[net-1] halfway",
        "printed by a library",
        "[net-1] scored 4 of 4 units",
        "[net-2] halfway",
        "printed by a library",
        "[net-2] scored 4 of 4 units",
    ]
    shown = CONTROL.sub("", text)
    assert "run 1 of 2  net-1" in shown
    assert "run 2 of 2  net-2" in shown
    assert "starting" in shown
    assert re.search(r"scored 2 of 4 units  [\d.]+/s  \d+s left", shown)
    assert "━" in shown, "a bar"
    assert COLOUR.search(text)
    assert text.count(HIDE) == text.count(SHOW) == 2


def test_ctrl_c_shows_the_cursor_again() -> None:
    text = in_terminal(READY, ctrl_c_after="ready for Ctrl-C")
    assert "KeyboardInterrupt" in text
    assert text.rindex(SHOW) > text.rindex(HIDE)
    assert not any("ready for" in line for line in on_screen(text)), "the moving line is gone"


@pytest.mark.parametrize("code", [WORK, TABLE])
def test_no_color_turns_colours_off(code: str) -> None:
    coloured, plain = in_terminal(code), in_terminal(code, NO_COLOR="1")
    assert COLOUR.search(coloured), "the control"
    assert not COLOUR.search(plain)
    kept = [[line for line in on_screen(text) if "/s" not in line] for text in (plain, coloured)]
    assert kept[0] == kept[1] != []


def test_a_terminal_that_cannot_move_its_cursor_gets_plain_lines() -> None:
    text = in_terminal(WORK, TERM="dumb")
    assert "\x1b" not in text
    assert "[net-1] scored 1 of 4 units" in text.splitlines()


def test_tables_are_drawn_on_a_terminal_and_are_text_elsewhere(
    capsys: pytest.CaptureFixture[str],
) -> None:
    lines = on_screen(in_terminal(TABLE))
    assert [" ".join(line.split()) for line in lines if "─" not in line and "━" not in line] == [
        "Title",
        "name MRR@20",
        "one [a] 0.25",
        "- a note",
    ]
    assert not any("|" in line for line in lines)
    print_markdown(MARKDOWN)
    print_table([["", "MRR@20"], ["one", "0.25"]], plain="one  0.25")
    assert capsys.readouterr().out == f"{MARKDOWN}\none  0.25\n"


def test_a_table_that_is_too_wide_loses_no_cell() -> None:
    names = [f"a-long-heading-{index}" for index in range(12)]
    rows = [names, ["---"] * 12, [f"value-{index}" for index in range(12)]]
    markdown = "\n".join("| " + " | ".join(row) + " |" for row in rows)
    text = in_terminal(f"from skiprec.terminal import print_markdown; print_markdown({markdown!r})")
    shown = CONTROL.sub("", text).replace("\n", "")
    assert all(name in shown for name in names)
    assert all(f"value-{index}" in shown for index in range(12))


def test_a_table_is_as_wide_as_the_terminal_at_most() -> None:
    row = ["0.1234 [0.1000, 0.1500]"] * 4
    cells = [["a heading of several words"] * 4, row, row]
    code = f"from skiprec.terminal import print_table; print_table({cells!r}, plain='')"
    for columns, shown in (("200", row[0]), ("80", "[0.1000, 0.1500]"), ("50", "[0.1000,")):
        lines = on_screen(in_terminal(code, COLUMNS=columns))
        assert max(map(len, lines)) <= int(columns)
        assert sum(line.count(shown) for line in lines) == 8


def test_reports_of_a_builder_replace_those_that_begin_alike() -> None:
    code = (
        "from skiprec.terminal import moving_line\n"
        "with moving_line() as line:\n"
        "    for text in ('fetched 5 of 10 bytes', 'fetched 10 of 10 bytes', 'read 1,000 rows',\n"
        "                 'read 2,000 rows', 'skipped bad rows: 1 short', 'shop: 9 users'):\n"
        "        line.report(text)\n"
    )
    kept = ["fetched 10 of 10 bytes", "read 2,000 rows", "skipped bad rows: 1 short"]
    assert on_screen(in_terminal(code)) == [*kept, "shop: 9 users"]


def test_numbers_of_a_report_set_the_bar() -> None:
    with moving_line() as line:
        line.report("fetched 1,500 of 6,000 bytes")
        assert (line.pace.done, line.pace.total) == (1500, 6000)
        line.report("fetched 1,600 of ? bytes")
        assert (line.pace.done, line.pace.total) == (1600, None)
        line.report("read 20 interactions")
        assert (line.pace.done, line.pace.total) == (20, None)
        line.report("the archive is already there")
        assert line.pace.first_s is None


def test_off_a_terminal_frequent_reports_are_left_out(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with moving_line("net", plain_every_s=60.0) as line:
        line.show("scored 1 of 2 units", 1, 2)
        line.say("a message")
    assert capsys.readouterr().out == "[net] a message\n"


def test_the_innermost_line_is_the_current_one(capsys: pytest.CaptureFixture[str]) -> None:
    with part_of("sweep"), moving_line("outer"), moving_line("inner") as inner:
        assert current_line() is inner
    current_line().show("no line is open")
    say("said")
    assert capsys.readouterr().out == "no line is open\nsaid\n"


def test_the_pace_counts_from_the_first_report() -> None:
    pace = Pace(start_s=0.0)
    assert pace.text(9.0) == "9s", "nothing is known but the time that has passed"
    pace.report(10.0, done=400, total=1000)  # a download that continues has 400 at its start
    assert pace.text(12.0) == "12s"
    pace.report(20.0, done=600, total=1000)
    assert pace.text(20.0) == "20/s  20s left"
    assert pace.text(25.0) == "20/s  15s left", "the time left runs down between reports"
    assert pace.text(99.0) == "20/s  0s left"
    pace.report(30.0, done=405, total=None)
    assert pace.text(30.0) == "0.25/s"


def test_terminals_are_served_without_torch_and_ray() -> None:
    code = "import sys, skiprec.terminal; print([m for m in ('torch', 'ray') if m in sys.modules])"
    command = [sys.executable, "-c", code]
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=env)
    assert done.stdout == "[]\n"
