"""`datasets/` holds scripts and is no package: it must not shadow Hugging Face's `datasets`."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "datasets"


def python(code: str, *path: Path) -> str:
    env = os.environ | {"PYTHONPATH": os.pathsep.join(map(str, path))}
    command = [sys.executable, "-c", code]
    return subprocess.run(
        command, capture_output=True, text=True, check=True, env=env, cwd=FOLDER.parents[1]
    ).stdout.strip()


def test_it_has_no_init_file() -> None:
    assert FOLDER.is_dir()
    assert not list(FOLDER.rglob("__init__.py"))


def test_a_package_of_that_name_wins_over_it(tmp_path: Path) -> None:
    for shadowed in (False, True):
        root = tmp_path / str(shadowed)
        for folder in ("repo/datasets", "site/datasets"):
            (root / folder).mkdir(parents=True)
        (root / "site/datasets/__init__.py").write_text("origin = 'the real one'")
        if shadowed:  # control: with an __init__.py the folder would win
            (root / "repo/datasets/__init__.py").write_text("origin = 'ours'")
        found = python("import datasets; print(datasets.origin)", root / "repo", root / "site")
        assert found == ("ours" if shadowed else "the real one")
    code = "import datasets; print(datasets.__file__)"
    found = python(code, ROOT, tmp_path / "False" / "site")
    assert found == str(tmp_path / "False" / "site" / "datasets" / "__init__.py")


def test_script_names_are_two_words_that_shadow_nothing() -> None:
    """A script's own folder leads its sys.path, so csv.py there would replace the real one."""
    scripts = sorted(FOLDER.glob("*.py"))
    assert scripts
    for script in scripts:
        assert len(script.stem.split("_")) >= 2
        assert script.stem not in sys.stdlib_module_names


def test_the_builder_loads_neither_torch_nor_ray_nor_pandas() -> None:
    code = (
        "import sys, skiprec.data.ingest, skiprec.data.shards;"
        "print([m for m in ('torch', 'ray', 'pandas', 'argparse') if m in sys.modules])"
    )
    loaded = python(code, ROOT)
    assert loaded in ("[]", "['argparse']")  # some dependency may use argparse, never ours
    for path in (ROOT / "skiprec" / "data").rglob("*.py"):
        assert "argparse" not in path.read_text(), path
        assert "environ" not in path.read_text(), path
