"""Every command that a document shows exists, with the options that it is shown with."""

import contextlib
import functools
import io
import itertools
import re
import runpy
import sys
from pathlib import Path

import pytest

from skiprec.config.files import load_config
from tests.testkit.repository import ROOT, Command, document_commands, make_targets, split_shell

DOCUMENTS = sorted(ROOT.glob("*.md")) + sorted((ROOT / "docs").rglob("*.md"))
COMMANDS = [
    command
    for path in DOCUMENTS
    for command in document_commands(path.read_text(), str(path.relative_to(ROOT)))
]
SCRIPTS = sorted((ROOT / "jobs").glob("*.py")) + sorted((ROOT / "datasets").glob("*.py"))
# Programs that a document may show besides ours; their own options are not ours to check.
FOREIGN = set(
    "ray git export source cd pip unzip curl mkdir chmod ls tensorboard kubectl docker bash".split()
)
PYTHONS = {"python", "python3", "python3.11", ".venv/bin/python", "$(PY)"}


@functools.cache
def help_of(script: Path) -> str:
    """What `--help` prints; in this process, so that Ray is imported once."""
    main = runpy.run_path(str(script), run_name="not_main")["main"]
    out = io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.suppress(SystemExit):
        main(["--help"])
    return out.getvalue()


def problem_of(words: tuple[str, ...]) -> str | None:
    """Why a command of a document would not run as shown; None if it would."""
    program, *arguments = words
    if program == "make":
        targets = [word for word in arguments if "=" not in word and not word.startswith("-")]
        missing = set(targets) - make_targets((ROOT / "Makefile").read_text())
        return f"the Makefile has no target {sorted(missing)}" if missing else None
    if words[:3] == ("ray", "job", "submit") and "--" in words:
        return problem_of(words[words.index("--") + 1 :])
    if program in PYTHONS:
        return problem_of_python(arguments)
    if program.startswith((".venv/bin/", ".ci/")):
        return None if (ROOT / program).exists() else f"there is no {program}"
    return None if program in FOREIGN else f"{program!r} is no command that we know of"


def problem_of_python(arguments: list[str]) -> str | None:
    if not arguments or arguments[0] in ("-m", "-c"):
        return None
    script = ROOT / arguments[0]
    if not script.is_file():
        return f"there is no {arguments[0]}"
    options = [word for word in arguments[1:] if word.startswith("--")]
    if script.parent.name in ("jobs", "datasets"):
        known = set(re.findall(r"--[a-z][a-z-]*", help_of(script)))
        for option in options:
            if option.partition("=")[0] not in known:
                return f"{arguments[0]} has no {option}; it has {', '.join(sorted(known))}"
    return problem_of_config(arguments)


def problem_of_config(arguments: list[str]) -> str | None:
    """The files and keys that follow `--config` and `--set`."""
    pairs = list(itertools.pairwise(arguments))
    paths = [value for option, value in pairs if option == "--config"]
    overrides = [value for option, value in pairs if option == "--set"]
    for path in paths:
        try:
            load_config(ROOT / path, overrides)
        except ValueError as error:
            return str(error)
    return None


@pytest.mark.parametrize("command", COMMANDS, ids=str)
def test_a_command_of_a_document_would_run(command: Command) -> None:
    assert problem_of(command.words) is None


def test_the_readme_names_the_two_commands() -> None:
    shown = [command.words for command in COMMANDS if command.place.startswith("README.md:")]
    assert ("make", "quickstart") in shown
    assert ("make", "test") in shown


def test_documents_name_files_that_exist() -> None:
    """Paths in backticks and links, where they look like files of this repository."""
    folders = "skiprec|cluster|jobs|datasets|tests|docs|benchmarks"
    for document in DOCUMENTS:
        for name in re.findall(
            rf"[`(]((?:{folders})/[\w/.-]+\.(?:py|toml|md))[`)]", document.read_text()
        ):
            is_placeholder = Path(name).stem.isupper()
            is_there = any((folder / name).exists() for folder in (ROOT, document.parent))
            assert is_placeholder or is_there, f"{document.name} names {name}"


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_every_script_explains_itself(script: Path) -> None:
    assert "usage:" in help_of(script)
    assert script.stem.count("_") >= 1, "two words: its folder leads sys.path"
    assert script.stem not in sys.stdlib_module_names


@pytest.mark.parametrize(
    "line",
    [
        "make quickstrat",
        "python jobs/train_gumble.py --config jobs/configs/smoke.toml",
        "python jobs/train_gumbel.py --confg jobs/configs/smoke.toml",
        "python jobs/train_gumbel.py --config jobs/configs/smok.toml",
        "python jobs/train_gumbel.py --config jobs/configs/smoke.toml --set model.wdth=8",
        "ray job submit --working-dir . -- python jobs/nothing.py",
        "skiprec train",
    ],
)
def test_a_wrong_command_is_noticed(line: str) -> None:
    """The control of the tests above."""
    (words,) = split_shell(line)
    assert problem_of(words) is not None


def test_blocks_of_documents_are_read_to_their_end() -> None:
    text = "a\n```bash\nA=1 make x \\\n  Y=2 && make z > out  # why\n\nmake w\n```\n```\nno\n```\n"
    assert document_commands(text, "d") == [
        Command("d:3", ("make", "x", "Y=2")),
        Command("d:3", ("make", "z")),
        Command("d:6", ("make", "w")),
    ]
