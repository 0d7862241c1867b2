"""The folder of a kind of policy: what its modules may import, and that nobody else names the
kind."""

import ast
from pathlib import Path

import pytest

from skiprec.policy.kinds import KINDS, NO_POLICY, OPTIONS, class_of
from skiprec.policy.training import PolicyTraining
from tests.contracts.test_imports import imported
from tests.testkit.repository import ROOT, python_files

POLICY = ROOT / "skiprec/policy"
# Words that other parts of the code use, too, in other senses.
COMMON_WORDS = {NO_POLICY, "random", "fixed"}
# What each module of a kind must not import: it would be on a higher level of the code.
ABOVE = {
    "module.py": (
        "skiprec.network",
        "skiprec.policy.training",
        "skiprec.training",
        "skiprec.inference",
        "skiprec.evaluation",
        "skiprec.checkpoints",
        "skiprec.terminal",
    ),
    "training.py": (
        "skiprec.training",
        "skiprec.evaluation",
        "skiprec.checkpoints",
        "skiprec.terminal",
    ),
}
# All that `options.py` may import: a configuration is read without torch.
OF_OPTIONS = ("math", "typing", "pydantic", "skiprec.config.", "skiprec.policy.section")
NOT_OF_OPTIONS = ("skiprec.config.run", "skiprec.config.files")


def names_a_kind(tree: ast.AST) -> list[str]:
    """Imports of a kind's folder, literals of its name, and comparisons of `policy.kind`."""
    places = [
        f"imports {name}"
        for name in imported(tree)
        if name.startswith("skiprec.policy.") and name.split(".")[2] in KINDS
    ]
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and node.value in set(KINDS) - COMMON_WORDS:
            places.append(f"line {node.lineno}: {node.value!r}")
        if isinstance(node, ast.Compare) and isinstance(node.ops[0], ast.Eq | ast.NotEq):
            if any(
                ast.unparse(side).endswith("policy.kind") for side in (node.left, *node.comparators)
            ):
                places.append(f"line {node.lineno}: {ast.unparse(node)}")
    return places


def is_in_a_kinds_folder(path: Path) -> bool:
    return path.is_relative_to(POLICY) and path.relative_to(POLICY).parts[0] in KINDS


@pytest.mark.parametrize(
    "path", python_files("skiprec", "cluster"), ids=lambda path: str(path.relative_to(ROOT))
)
def test_no_module_outside_of_a_kinds_folder_names_it(path: Path) -> None:
    if path != POLICY / "kinds.py" and not is_in_a_kinds_folder(path):
        assert names_a_kind(ast.parse(path.read_text())) == []


def test_the_search_sees_what_is_forbidden() -> None:
    """The control of the test above."""
    for text in (
        "from skiprec.policy.gumbel.options import Options",
        "from skiprec.policy.cost import module",
        "x = policy.kind == NO_POLICY",
        "x = config.policy.kind != 'random'",
        "x = {'reinforce': 1}",
    ):
        assert names_a_kind(ast.parse(text)), text
    assert not names_a_kind(ast.parse("from skiprec.policy.kinds import KINDS\nx = 'fixed'"))


@pytest.mark.parametrize("kind", KINDS)
def test_the_modules_of_a_kind_import_what_is_below_them(kind: str) -> None:
    found = {path.name for path in (POLICY / kind).glob("*.py")} - {"__init__.py"}
    assert "options.py" in found
    assert found <= {"options.py", *ABOVE}, "the files of a kind"
    others = tuple(f"skiprec.policy.{other}." for other in KINDS if other != kind)
    for name in found:
        above = NOT_OF_OPTIONS if name == "options.py" else ABOVE[name]
        for module in imported(ast.parse((POLICY / kind / name).read_text())):
            assert not module.startswith((*above, *others)), f"{kind}/{name}: {module}"
            assert name != "options.py" or module.startswith(OF_OPTIONS), f"{kind}: {module}"


@pytest.mark.parametrize("kind", KINDS)
def test_a_kind_has_the_modules_that_it_needs(kind: str) -> None:
    options = OPTIONS[kind]
    assert options.model_fields["kind"].default == kind
    assert (class_of(kind, "module") is not None) == options.decides
    training = class_of(kind, "training")
    assert (training is not None) == options.is_learned, "what learns has a training.py"
    assert training is None or issubclass(training, PolicyTraining)


def test_every_folder_of_a_kind_is_registered() -> None:
    folders = {path.parent.name for path in POLICY.glob("*/__init__.py")}
    assert folders == set(KINDS)
