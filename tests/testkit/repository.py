"""The files of the repository, and the commands that its documents show."""

import re
import shlex
import subprocess
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
LEFT_OUT = {".git", ".venv", "runs", "data", "build", "dist", "__pycache__"}


def repository_files() -> list[Path]:
    """What git has or would take; outside a checkout, everything but what is made here."""
    if (ROOT / ".git").exists():
        command = ["git", "ls-files", "-co", "--exclude-standard", "-z"]
        listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
        return sorted(ROOT / name for name in set(listed.stdout.split("\0")) - {""})
    return sorted(
        path
        for path in ROOT.rglob("*")
        if path.is_file() and path.relative_to(ROOT).parts[0] not in LEFT_OUT
    )


def python_files(*folders: str) -> list[Path]:
    """The Python files, all or those in some of the top folders."""
    return [
        path
        for path in repository_files()
        if path.suffix == ".py"
        and path.exists()
        and (not folders or path.relative_to(ROOT).parts[0] in folders)
    ]


def make_targets(makefile: str) -> set[str]:
    return set(re.findall(r"^([a-z][a-z-]*):(?!=)", makefile, flags=re.MULTILINE))


@dataclass(frozen=True)
class Command:
    """One command of a document, its environment settings and redirections taken off."""

    place: str
    words: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.place}: {' '.join(self.words)}"


def document_commands(text: str, name: str) -> list[Command]:
    """The commands in the ```bash blocks of a Markdown text."""
    commands = []
    for block in re.finditer(r"^ *```bash\n(.*?)^ *```", text, flags=re.MULTILINE | re.DOTALL):
        first_line = text[: block.start(1)].count("\n") + 1
        joined = block.group(1).replace("\\\n", " \x00")  # \x00 keeps the count of lines
        line_number = first_line
        for line in joined.splitlines():
            place = f"{name}:{line_number}"
            line_number += 1 + line.count("\x00")
            for part in split_shell(line.replace("\x00", "")):
                commands.append(Command(place, part))
    return commands


def split_shell(line: str) -> list[tuple[str, ...]]:
    """`A=1 make x && make y > z  # why` -> [("make", "x"), ("make", "y")]."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars="&|;<>")
    lexer.whitespace_split = True
    commands: list[list[str]] = [[]]
    words = iter(lexer)
    for word in words:
        if set(word) <= set("&|;"):
            commands.append([])
        elif set(word) <= set("<>"):
            next(words, None)
        elif commands[-1] or not re.fullmatch(r"[A-Za-z_]\w*=.*", word):
            commands[-1].append(word)
    return [tuple(command) for command in commands if command]
