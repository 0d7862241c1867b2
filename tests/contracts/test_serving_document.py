"""The examples of docs/serving.md run against a real service, and its tables are complete."""

import json
import re
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from skiprec.service.schema import RecommendRequest, Result
from tests.testkit.exports import export_small_model
from tests.testkit.repository import ROOT
from tests.testkit.service import serving

PAGE = (ROOT / "docs/serving.md").read_text()


def examples(language: str, word: str) -> list[str]:
    """The blocks of the page in a language that hold a word."""
    blocks = re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)
    return [block for block in blocks if word in block]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("export") / "model"
    export_small_model(folder)
    return folder


def run(command: list[str], text: str, address: str) -> str:
    """What an example prints, at another address than 8080."""
    here = text.replace("localhost:8080", address.removeprefix("http://"))
    done = subprocess.run([*command, here], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_example_of_curl(folder: Path) -> None:
    (example,) = examples("bash", "curl")
    with serving(folder) as (_, address):
        answer = json.loads(run(["bash", "-c"], example, address))
    assert [len(result["items"]) for result in answer["results"]] == [3, 3]
    assert answer["results"][0]["kept_blocks"] is not None


def test_the_example_of_python(folder: Path) -> None:
    (example,) = examples("python", "urllib")
    with serving(folder) as (_, address):
        printed = run([sys.executable, "-c"], example, address)
    assert re.match(r"run@\w+ \['.*'\] popularity \d", printed)


def test_the_tables_name_every_field_route_and_number(folder: Path) -> None:
    for name in (*RecommendRequest.model_fields, *Result.model_fields):
        assert f"`{name}`" in PAGE, name
    with serving(folder) as (_, address):
        routes = httpx.get(f"{address}/openapi.json").json()["paths"]
        numbers = httpx.get(f"{address}/metrics").text
    for route in routes:
        assert f"{route}`" in PAGE, route
    for name in re.findall(r"# TYPE (skiprec_\w+) (?:counter|gauge|histogram)", numbers):
        if not name.endswith("_created"):
            assert f"`{name}" in PAGE, name
