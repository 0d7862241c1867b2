"""The names of arms and of their columns are made and read in one file."""

import ast

import pytest

from tests.testkit.repository import ROOT, python_files

HOME = ROOT / "skiprec/evaluation/measure/arms.py"
PREFIXES = ("rank_", "fixed_", "learned_", "blocks_kept_", "frontier_at_", "hull_at_")
# The ranks of a batch, with the suffix of their shape.
OTHER_NAMES = {"rank_B"}


def prefixes_in(tree: ast.AST) -> list[str]:
    """The literals that begin like the name of an arm or of its column; docstrings have spaces."""
    return [
        node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant)
        and isinstance(node.value, str)
        and node.value.startswith(PREFIXES)
        and node.value not in OTHER_NAMES
        and " " not in node.value
    ]


@pytest.mark.parametrize(
    "folder", ["skiprec/evaluation", "skiprec/observability", "cluster", "jobs"]
)
def test_no_other_file_has_the_prefixes_of_arms(folder: str) -> None:
    for path in python_files(folder):
        if path != HOME:
            assert not prefixes_in(ast.parse(path.read_text())), path


def test_the_search_sees_a_prefix() -> None:
    """The control of the test above."""
    for text in ('x = f"rank_{name}"', 'y = name.startswith("fixed_")', 'z = "learned_00"'):
        assert prefixes_in(ast.parse(text)), text
    assert not prefixes_in(ast.parse('x = {"rank_B": 1}'))
    assert prefixes_in(ast.parse(HOME.read_text())) == ["rank_", "blocks_kept_"]
