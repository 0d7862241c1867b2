"""The wheel brings what serving needs and nothing else, with the library inside."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from skiprec.inference.native.build import find_compiler
from tests.testkit.repository import ROOT
from tests.unit.inference.test_recommender import export

PROGRAM = """
import json, sys
from skiprec.inference import Recommender
from skiprec.inference.native.places import WHEEL_LIBRARY, find_library
assert find_library() == WHEEL_LIBRARY
answer = Recommender.load(sys.argv[1], executor="native").recommend([["item 1", "2"]], k=5)[0]
print(json.dumps([answer.items, sorted(sys.modules)]))
"""


@pytest.mark.slow
def test_a_fresh_environment_serves_an_exported_model_without_torch(tmp_path: Path) -> None:
    if find_compiler() is None:
        pytest.skip("the native executor is not built: no C++ compiler")
    export(tmp_path / "model")
    source = tmp_path / "source"  # a build leaves folders beside what it builds
    for name in ("skiprec", "cluster"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    build = [
        "wheel",
        "--no-deps",
        "--no-build-isolation",
        "--wheel-dir",
        str(tmp_path),
        str(source),
    ]
    subprocess.run([*pip, *build], check=True)
    (wheel,) = tmp_path.glob("skiprec-*.whl")
    assert "-py3-none-" in wheel.name
    assert "-any" not in wheel.name  # it holds a compiled library
    environment = tmp_path / "environment"
    subprocess.run([sys.executable, "-m", "venv", str(environment)], check=True)
    python = str(environment / "bin/python")
    constraints = ["--constraint", str(ROOT / "constraints.txt")]
    install = ["-m", "pip", "--quiet", "--disable-pip-version-check", "install", *constraints]
    subprocess.run([python, *install, str(wheel)], check=True)
    listed = subprocess.run(
        [python, "-m", "pip", "list", "--format=json", "--disable-pip-version-check"],
        check=True,
        capture_output=True,
        text=True,
    )
    names = {package["name"].lower() for package in json.loads(listed.stdout)}
    assert names <= {"numpy", "pyarrow", "safetensors", "skiprec", "pip", "setuptools"}
    done = subprocess.run(
        [python, "-c", PROGRAM, str(tmp_path / "model")],
        cwd=tmp_path,
        check=True,
        capture_output=True,
        text=True,
    )
    items, modules = json.loads(done.stdout)
    assert len(items) == 5
    assert "torch" not in modules
