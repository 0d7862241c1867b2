"""The wheel brings what serving needs and nothing else, with the library inside."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from skiprec.inference.native.build import find_compiler
from tests.testkit.exports import export_small_model
from tests.testkit.repository import ROOT
from tests.testkit.service import ask

PROGRAM = """
import json, sys
from skiprec.inference import Recommender
from skiprec.inference.native.places import WHEEL_LIBRARY, find_library
assert find_library() == WHEEL_LIBRARY
answer = Recommender.load(sys.argv[1], executor="native").recommend([["item 1", "2"]], k=5)[0]
print(json.dumps([answer.items, sorted(sys.modules)]))
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if find_compiler() is None:
        pytest.skip("the native executor is not built: no C++ compiler")
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"  # a build leaves folders beside what it builds
    for name in ("skiprec", "cluster"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    build = ["wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(folder), str(source)]
    subprocess.run([sys.executable, *PIP, *build], check=True)
    (wheel,) = folder.glob("skiprec-*.whl")
    return wheel


PIP = ("-m", "pip", "--disable-pip-version-check", "--quiet")


def fresh_environment(folder: Path, requirement: str) -> tuple[str, set[str]]:
    """The Python of a new environment with one requirement, and the packages that came."""
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    python = str(folder / "bin/python")
    install = ["install", "--constraint", str(ROOT / "constraints.txt"), requirement]
    subprocess.run([python, *PIP, *install], check=True)
    listed = subprocess.run(
        [python, *PIP[:-1], "list", "--format=json"], check=True, capture_output=True, text=True
    )
    return python, {package["name"].lower() for package in json.loads(listed.stdout)}


@pytest.mark.slow
def test_a_fresh_environment_uses_an_exported_model_without_torch(
    wheel: Path, tmp_path: Path
) -> None:
    export_small_model(tmp_path / "model")
    assert "-py3-none-" in wheel.name
    assert "-any" not in wheel.name  # it holds a compiled library
    python, names = fresh_environment(tmp_path / "environment", str(wheel))
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


@pytest.mark.slow
def test_a_fresh_environment_serves_over_http_without_torch_and_ray(
    wheel: Path, tmp_path: Path
) -> None:
    """As the stage `serve` of the Dockerfile does."""
    export_small_model(tmp_path / "model")
    python, names = fresh_environment(tmp_path / "environment", f"{wheel}[serve]")
    assert names.isdisjoint({"torch", "ray", "deepspeed"})
    shutil.copy(ROOT / "jobs/serve_model.py", tmp_path)
    command = [python, "serve_model.py", "--model", "model", "--executor", "native", "--port", "0"]
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        address = process.stdout.readline().split(" answers at ")[1].strip()
        answer = ask(address, {"histories": [["item 1", "2"]], "k": 5})
        page = [httpx.get(f"{address}/{name}") for name in ("", "page/main.js", "page/style.css")]
        process.terminate()
    assert process.returncode == 0
    assert len(answer.json()["results"][0]["items"]) == 5
    assert [part.status_code for part in page] == [200, 200, 200]
    size = subprocess.run(["du", "-sm", str(tmp_path / "environment")], capture_output=True)
    assert int(size.stdout.split()[0]) < 400, "docs/serving.md says 312 MB"
