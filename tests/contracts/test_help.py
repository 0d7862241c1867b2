"""Every option of every script in jobs/ and datasets/ has a help text that states its default."""

import argparse
import runpy
from pathlib import Path

import pytest

from tests.testkit.repository import ROOT

SCRIPTS = sorted((ROOT / "jobs").glob("*.py")) + sorted((ROOT / "datasets").glob("*.py"))


def parser_of(script: Path, monkeypatch: pytest.MonkeyPatch) -> argparse.ArgumentParser:
    """The parser that a script makes of its command line."""
    made: list[argparse.ArgumentParser] = []

    def keep(parser: argparse.ArgumentParser, arguments: object = None) -> None:
        made.append(parser)
        raise SystemExit(0)

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", keep)
    with pytest.raises(SystemExit):
        runpy.run_path(str(script), run_name="not_main")["main"]([])
    (parser,) = made
    return parser


def problems_of(parser: argparse.ArgumentParser) -> list[str]:
    """The options whose help lacks a text, the default, or that the option is required."""
    problems = []
    for action in parser._actions:
        if isinstance(action, argparse._HelpAction):
            continue
        name, text = "/".join(action.option_strings) or action.dest, action.help or ""
        if len(text.split("(")[0].split()) < 3:
            problems.append(f"{name}: no help text")
        # An option that is required only beside another one says so as well.
        if "(required" not in text and (action.required or "(default: " not in text):
            problems.append(f"{name}: the help states neither a default nor that it is required")
        if isinstance(action.default, Path | str | int | float) and action.nargs != 0:
            shown = str(action.default).removeprefix(f"{ROOT}/")
            if f"(default: {shown})" not in text:
                problems.append(f"{name}: the default is {shown}")
    return problems


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_every_option_is_explained(script: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parser = parser_of(script, monkeypatch)
    assert problems_of(parser) == []
    description = parser.description or ""
    assert description.split("\n")[0].endswith("."), "the first line is a sentence"
    assert len(parser.format_help()) > len(description)


def test_an_option_without_help_or_with_another_default_is_noticed() -> None:
    """The control of the test above."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--silent")
    parser.add_argument("--vague", help="an option that has no default stated")
    parser.add_argument("--needed", required=True, help="a folder for the results (default: runs)")
    parser.add_argument("--wrong", type=int, default=3, help="number of items a row (default: 4)")
    parser.add_argument("--good", type=int, default=3, help="number of items a row (default: 3)")
    problems = problems_of(parser)
    assert {problem.split(":")[0] for problem in problems} == {
        "--silent",
        "--vague",
        "--needed",
        "--wrong",
    }
