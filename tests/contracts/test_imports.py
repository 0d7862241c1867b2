"""Who may know whom. import-linter holds the layers; here is what it cannot see."""

import ast
import tomllib
from pathlib import Path

import pytest
from setuptools import find_namespace_packages

from tests.testkit.repository import ROOT, python_files

FORBIDDEN = {"ray", "deepspeed", "argparse", "cluster", "jobs", "tests"}


def imported(tree: ast.AST) -> set[str]:
    """Every module that a file imports, at any depth of it."""
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add("." * node.level + (node.module or ""))
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def environment_uses(tree: ast.AST) -> list[int]:
    """Lines that read or write the process's environment, arguments or working folder."""
    forbidden = {"environ", "getenv", "putenv", "argv", "chdir"}
    lines = [
        n.lineno for n in ast.walk(tree) if isinstance(n, ast.Attribute) and n.attr in forbidden
    ]
    lines += [
        n.lineno
        for n in ast.walk(tree)
        if isinstance(n, ast.ImportFrom) and {a.name for a in n.names} & forbidden
    ]
    return lines


@pytest.mark.parametrize(
    "path", python_files("skiprec"), ids=lambda path: str(path.relative_to(ROOT))
)
def test_skiprec_knows_no_ray_no_environment_and_no_command_line(path: Path) -> None:
    tree = ast.parse(path.read_text())
    assert not {name.split(".")[0] for name in imported(tree)} & FORBIDDEN
    assert not environment_uses(tree)
    assert not any(name.startswith(".") for name in imported(tree)), "imports are absolute"


def test_the_search_sees_what_is_forbidden() -> None:
    """The control of the test above."""
    text = "def f():\n    import ray.train\n    from deepspeed import zero\n"
    names = imported(ast.parse(text))
    assert {name.split(".")[0] for name in names} == {"ray", "deepspeed"}
    assert environment_uses(ast.parse("import os\nx = os.environ['RANK']\n")) == [2]
    assert environment_uses(ast.parse("from os import getenv\n")) == [1]


def files_that_import(name: str, *folders: str) -> set[str]:
    return {
        str(path.relative_to(ROOT))
        for path in python_files(*folders)
        if name in {part.split(".")[0] for part in imported(ast.parse(path.read_text()))}
        or any(part.startswith(f"{name}.") for part in imported(ast.parse(path.read_text())))
    }


def test_deepspeed_is_imported_in_one_file() -> None:
    assert files_that_import("deepspeed", "cluster", "jobs") == {
        "cluster/training/deepspeed_engine.py"
    }


def test_tensorboard_is_imported_in_its_sink() -> None:
    found = files_that_import("torch.utils.tensorboard", "skiprec", "cluster", "jobs")
    assert found == {"skiprec/observability/tensorboard.py"}
    assert files_that_import("tensorboard", "skiprec", "cluster", "jobs") == set()


def test_rich_is_imported_where_terminals_are_served() -> None:
    found = files_that_import("rich", "skiprec", "cluster", "jobs", "datasets")
    assert found == {"skiprec/terminal.py"}
    inside = files_that_import("skiprec.terminal", "skiprec")
    assert inside == set(), "skiprec computes without a terminal"


def test_library_code_never_seeds_the_global_generator() -> None:
    """Randomness is an argument: a generator or a key."""
    for path in python_files("skiprec"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                name = ast.unparse(node.func)
                where = f"{path.relative_to(ROOT)}:{node.lineno}"
                assert name not in ("torch.manual_seed", "np.random.seed", "random.seed"), where
                assert not name.startswith(("np.random.rand", "torch.rand")), where


def test_what_is_installed_is_skiprec_and_cluster() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())
    include = settings["tool"]["setuptools"]["packages"]["find"]["include"]
    packages = find_namespace_packages(str(ROOT), include=include)
    assert {name.split(".")[0] for name in packages} == {"skiprec", "cluster"}
    needed = {
        ".".join(path.relative_to(ROOT).parent.parts) for path in python_files("skiprec", "cluster")
    }
    assert needed <= set(packages), "a folder with code is not installed"
    everything = find_namespace_packages(str(ROOT))
    assert "datasets" in everything, "the control: without the list it would be a package"


@pytest.mark.parametrize("folder", sorted({p.parent for p in python_files("skiprec", "cluster")}))
def test_every_folder_of_the_packages_is_a_package(folder: Path) -> None:
    assert (folder / "__init__.py").exists()


def test_job_scripts_do_nothing_when_they_are_imported() -> None:
    for path in python_files("jobs", "datasets"):
        for node in ast.parse(path.read_text()).body:
            allowed = (ast.Import, ast.ImportFrom, ast.FunctionDef, ast.ClassDef, ast.Assign)
            is_docstring = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
            is_main = isinstance(node, ast.If) and "__name__" in ast.unparse(node.test)
            assert isinstance(node, (*allowed, ast.AnnAssign)) or is_docstring or is_main, (
                f"{path.relative_to(ROOT)}:{node.lineno}"
            )
