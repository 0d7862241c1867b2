"""Every shape suffix in the code has its letters in the legend of `skiprec/types.py`."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import skiprec.types
from tests.testkit.repository import ROOT, python_files

# A lowercase name, then `_`, then capitals and digits: `x_TBD` is one, `MAX_SCORES` is none.
SUFFIXED = re.compile(r"_*[a-z][a-z0-9]*(?:_[a-z0-9]+)*_([A-Z0-9]*[A-Z][A-Z0-9]*)")


def legend() -> set[str]:
    assert skiprec.types.__doc__ is not None
    return set(re.findall(r"^    ([A-Z])  \S", skiprec.types.__doc__, flags=re.MULTILINE))


def names(tree: ast.AST) -> Iterator[str]:
    """The names of variables, arguments, attributes and functions."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Name):
            yield node.id
        elif isinstance(node, ast.Attribute):
            yield node.attr
        elif isinstance(node, ast.FunctionDef):
            yield node.name
        elif isinstance(node, ast.arg | ast.keyword) and node.arg is not None:
            yield node.arg


def letters(tree: ast.AST) -> dict[str, set[str]]:
    """Each letter that is used in a suffix, with the names that use it."""
    used: dict[str, set[str]] = {}
    for name in names(tree):
        if match := SUFFIXED.fullmatch(name):
            for letter in set(match[1]) - set("0123456789"):
                used.setdefault(letter, set()).add(name)
    return used


@pytest.mark.parametrize(
    "path", python_files("skiprec", "cluster"), ids=lambda path: str(path.relative_to(ROOT))
)
def test_the_letters_of_every_suffix_are_in_the_legend(path: Path) -> None:
    used = letters(ast.parse(path.read_text()))
    unknown = {letter: used[letter] for letter in used.keys() - legend()}
    assert not unknown, "add the letter to the legend in skiprec/types.py, or use one from there"


def test_every_letter_of_the_legend_is_used() -> None:
    used: set[str] = set()
    for path in python_files("skiprec"):
        used |= letters(ast.parse(path.read_text())).keys()
    assert legend() <= used


def test_the_search_sees_suffixes_and_nothing_else() -> None:
    """The control of the tests above."""
    text = "def f(a_Q, *, b_2XD): self.c_Y = g(d_Z=MAX_SCORES, norm_1=E)\n"
    assert letters(ast.parse(text)).keys() == set("QXDYZ")
    assert not set("QXYZ") & legend()
    assert set("BTDLRV") <= legend()
