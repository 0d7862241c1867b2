"""What holds for the repository as a whole: its files, its versions, its front door."""

import itertools
import re
import subprocess
import tomllib
from pathlib import Path

from packaging.requirements import Requirement
from packaging.version import Version

from tests.testkit.repository import ROOT, make_targets, python_files, repository_files

MAX_LINES = 400
MAX_BYTES = 1_000_000


def constraints() -> dict[str, Version]:
    pins = {}
    for line in (ROOT / "constraints.txt").read_text().splitlines():
        name, _, version = line.partition("==")
        pins[canonical(name)] = Version(version)
    return pins


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def test_no_source_file_is_too_long_to_read() -> None:
    native = (ROOT / "skiprec/inference/native/src").iterdir()
    assert not {
        str(path.relative_to(ROOT)): lines
        for path in (*python_files(), *native)
        if (lines := path.read_text().count("\n")) > MAX_LINES
    }


def test_no_file_is_too_large_for_a_repository() -> None:
    large = [p for p in repository_files() if p.is_file() and p.stat().st_size > MAX_BYTES]
    assert not large


def test_no_file_names_a_folder_of_one_machine() -> None:
    # In pieces, so that this file does not name them.
    folders = "|".join(["wor" + "k", "roo" + "t", "far" + "m", "hom" + "e"])
    machine_path = re.compile(rf"(^|[^A-Za-z0-9_.~-])/({folders})/")
    assert machine_path.search("see /" + "home/someone")
    assert not machine_path.search("https://example.org/homepage /tmp/work")
    for path in repository_files():
        if path.is_file() and path.suffix in {".py", ".md", ".toml", ".txt", ".yaml", ""}:
            for number, line in enumerate(path.read_text(errors="replace").splitlines(), 1):
                assert not machine_path.search(line), f"{path.relative_to(ROOT)}:{number}"


def test_git_ignores_no_source() -> None:
    """`data/` in .gitignore, without its leading slash, would take skiprec/data with it."""
    if not (ROOT / ".git").exists():
        return  # an unpacked copy: whatever is here came along
    folders = ("skiprec", "cluster", "jobs", "datasets", "benchmarks", "tests", "docs")
    sources = [
        str(path.relative_to(ROOT))
        for folder in folders
        for path in (ROOT / folder).rglob("*")
        if path.suffix in {".py", ".toml", ".md", ".txt"}
    ]
    assert len(sources) > 50
    ignored = subprocess.run(
        ["git", "check-ignore", "--no-index", "--stdin"],
        cwd=ROOT,
        input="\n".join([*sources, "runs/x/config.json"]),
        capture_output=True,
        text=True,
    ).stdout.splitlines()
    assert ignored == ["runs/x/config.json"]


def test_every_dependency_has_its_exact_version_in_the_constraints() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"].values()
    named = [*project["dependencies"], *itertools.chain.from_iterable(extras)]
    pins = constraints()
    for requirement in map(Requirement, named):
        pin = pins[canonical(requirement.name)]
        assert requirement.specifier.contains(pin), f"{requirement} against {pin}"
    assert pins["torch"].local is None, "a local version would exclude CPU or CUDA builds"
    assert "skiprec" not in pins


def test_the_makefile_has_the_targets_that_people_and_ci_call() -> None:
    targets = make_targets((ROOT / "Makefile").read_text())
    expected = "quickstart test test-all lint types bench bench-data chaos"
    assert targets >= set(expected.split())
    called = re.findall(r"^make ([a-z-]+)", (ROOT / ".ci/run").read_text(), flags=re.MULTILINE)
    assert called == ["test-all"]
    assert set(called) <= targets


def test_the_makefile_runs_scripts_that_exist() -> None:
    text = (ROOT / "Makefile").read_text()
    for script in re.findall(r"\$\(PY\) ([\w/]+\.py)", text):
        assert (ROOT / script).exists(), script


def test_the_license_is_the_one_that_is_declared() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["license"] == "Apache-2.0"
    text = (ROOT / "LICENSE").read_text()
    assert "Version 2.0, January 2004" in text
    assert "END OF TERMS AND CONDITIONS" in text


def test_what_a_ray_job_uploads_is_small() -> None:
    """`ray job submit --working-dir .` zips all that .rayignore does not name."""
    left_out = (ROOT / ".rayignore").read_text().split()
    assert {".venv/", ".git/", "/runs/", "/data/"} <= set(left_out)
    # A file that grows while Ray packs the folder breaks the upload.
    assert {"*.log", "*.out", "*.err", "nohup.out", "events.out.tfevents.*"} <= set(left_out)
    sent = [
        path
        for path in repository_files()
        if path.is_file() and Path(path.relative_to(ROOT)).parts[0] not in ("docs", "tests")
    ]
    assert sum(path.stat().st_size for path in sent) < 5_000_000
