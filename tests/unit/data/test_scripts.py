"""The scripts in datasets/, run by path as a user does."""

import hashlib
import os
import shutil
import subprocess
import sys
import zipfile
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest

from skiprec.data.manifest import read_manifest

ROOT = Path(__file__).parents[3]


def run(script: str, *arguments: object, code: int = 0) -> str:
    done = subprocess.run(
        [sys.executable, str(ROOT / "datasets" / script), *map(str, arguments)],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        check=False,
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout if code == 0 else done.stderr


@pytest.fixture
def log(tmp_path: Path) -> Path:
    path = tmp_path / "log.csv"
    lines = [f"u{n % 9},i{n % 7},{n},{n % 4}" for n in range(200)]
    path.write_text("\n".join(["user,item,when,stars", *lines]))
    return path


def test_build_interactions_on_the_command_line(log: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    columns = ["--user-column", "user", "--item-column", "item", "--time-column", "when"]
    more = ["--window", 5, "--keep", "stars > 0", "--split", "leave_one_out"]
    said = run("build_interactions.py", "--input", log, *columns, *more, "--output", out)
    manifest = read_manifest(out)
    assert (manifest.name, manifest.window, manifest.num_users) == ("out", 5, 9)
    assert manifest.counts.filtered_rows == 50
    assert "200 interactions read; dropped: 50 in filtered rows" in said
    again = run("build_interactions.py", "--input", log, *columns, *more, "--output", out, code=1)
    assert again.startswith(f"error: {out} already exists")

    recipe = tmp_path / "out.toml"
    recipe.write_text(
        'name = "out"\nwindow = 7\n[source]\nkind = "text"\nuser_column = "user"\n'
        'item_column = "item"\ntime_column = "when"\nkeep = ["stars > 0"]\n'
        '[split]\nkind = "leave_one_out"\n'
    )
    both = ["--recipe", recipe, "--set", "window=5"]
    run("build_interactions.py", "--input", log, *both, "--output", tmp_path / "two")
    assert read_manifest(tmp_path / "two").recipe_hash == manifest.recipe_hash


def test_build_interactions_reads_sequences_and_a_given_pair(tmp_path: Path) -> None:
    for name in ("train", "test"):
        (tmp_path / name).write_text("\n".join("1 2 3 4 5 6" for _ in range(20)))
    pair = ["--sequences", tmp_path / "train", "--test-input", tmp_path / "test", "--window", 4]
    run("build_interactions.py", *pair, "--output", tmp_path / "out")
    manifest = read_manifest(tmp_path / "out")
    assert manifest.split_kind == "given"
    assert manifest.splits["test"].rows == 20
    error = run("build_interactions.py", "--output", tmp_path / "x", code=1)
    assert "expected either --input or --sequences" in error
    wrong = ["--input", tmp_path / "train", "--recipe", ROOT / "datasets/recipes/diginetica.toml"]
    error = run("build_interactions.py", *wrong, "--output", tmp_path / "x", code=1)
    assert "'sequences'; give the files with --sequences" in error


def test_build_movielens(tmp_path: Path) -> None:
    path = tmp_path / "ml-100k.zip"
    with zipfile.ZipFile(path, "w") as archive:
        lines = "".join(f"{n % 20}\t{n % 7}\t3\t{n}\n" for n in range(400))
        archive.writestr("ml-100k/u.data", lines)
    edition = ["--edition", "ml-100k", "--archive", path]
    run("build_movielens.py", *edition, "--set", "window=6", "--output", tmp_path / "out")
    assert read_manifest(tmp_path / "out").window == 6
    slides = ["--recipe", ROOT / "datasets/recipes/slides_ml20.toml"]
    error = run("build_movielens.py", *edition, *slides, "--output", tmp_path / "x", code=1)
    assert "but ml-100k is laid out as" in error


def test_build_movielens_downloads(tmp_path: Path) -> None:
    served = tmp_path / "served"
    served.mkdir()
    lines = "".join(f"{n % 20}::{n % 7}::3::{n}\n" for n in range(400))
    with zipfile.ZipFile(served / "ml-1m.zip", "w") as archive:
        archive.writestr("ml-1m/ratings.dat", lines)
    digest = hashlib.md5((served / "ml-1m.zip").read_bytes()).hexdigest()
    (served / "ml-1m.zip.md5").write_text(f"MD5 (ml-1m.zip) = {digest}\n")
    handler = partial(SimpleHTTPRequestHandler, directory=str(served))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        Thread(target=server.serve_forever).start()
        origin = ["--download", "--base-url", f"http://127.0.0.1:{server.server_port}/"]
        place = ["--cache", tmp_path / "cache", "--output", tmp_path / "out"]
        run("build_movielens.py", "--edition", "ml-1m", *origin, *place)
        server.shutdown()
    assert read_manifest(tmp_path / "out").edition["archive_md5"] == digest
    assert (tmp_path / "cache" / "ml-1m.zip").exists()


def test_build_synthetic(tmp_path: Path) -> None:
    run("build_synthetic.py", "--set", "source.num_users=50", "--output", tmp_path / "out")
    assert read_manifest(tmp_path / "out").num_users == 50


def test_build_grocery(tmp_path: Path) -> None:
    few = ["--set", "filters.max_users=30", "--set", "filters.max_items=500"]
    run("build_grocery.py", *few, "--output", tmp_path / "out")
    manifest = read_manifest(tmp_path / "out")
    assert manifest.counts.rows_read == 1_469_307
    assert manifest.num_items == 500
    assert manifest.num_users <= 30
    shutil.rmtree(tmp_path / "out")
