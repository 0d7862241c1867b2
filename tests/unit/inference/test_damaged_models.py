"""Folders that are no whole exported model are refused, with what is wrong."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from skiprec.durable import file_sha256
from skiprec.inference import Recommender
from skiprec.inference.saved_model import MANIFEST, MODEL, read_saved_model
from tests.testkit.exports import IDS, export_small_model


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("export") / "model"
    export_small_model(folder)
    return folder


def change(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def rewrite(folder: Path, edit: Any) -> None:
    """Edits `model.json`, and the manifest's sum of it, so that only the contents are wrong."""
    path = folder / MODEL
    path.write_text(json.dumps(edit(json.loads(path.read_text()))))
    sums = json.loads((folder / MANIFEST).read_text())["sha256"]
    change(folder / MANIFEST, sha256=sums | {MODEL: file_sha256(path)})


def with_shape(**changes: Any) -> Any:
    return lambda spec: spec | {"shape": spec["shape"] | changes}


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: (f / MANIFEST).unlink(), "holds no exported model"),
        (lambda f: (f / MANIFEST).write_text("{"), "is damaged"),
        (lambda f: change(f / MANIFEST, format_version=1), "has format version 1; this program"),
        (lambda f: (f / "weights.safetensors").write_bytes(b"x"), "weights.safetensors is damaged"),
        (lambda f: (f / "items.arrow").unlink(), "items.arrow is missing"),
        (lambda f: change(f / MODEL, setting=1.0), "model.json is damaged"),
        (lambda f: (f / MANIFEST).write_text("[]"), "is damaged: expected an object"),
        (lambda f: (f / MANIFEST).write_text("null"), "is damaged: expected an object"),
        (lambda f: change(f / MANIFEST, sha256=[]), "is damaged: expected an object"),
        (lambda f: change(f / MANIFEST, sha256={"model.json": 3}), "model.json is damaged"),
        (lambda f: rewrite(f, lambda _: []), "no description of a model: expected an object"),
        (lambda f: rewrite(f, lambda spec: spec | {"shape": {}}), "no description of a model"),
        (lambda f: rewrite(f, lambda spec: spec | {"shape": 3}), "no description of a model"),
        (lambda f: rewrite(f, with_shape(blocks="four")), "no description of a model"),
        (lambda f: rewrite(f, with_shape(blocks=30)), "the weights of model 'run' lack"),
        (lambda f: rewrite(f, lambda spec: spec | {"curve": [1]}), "no description of a model"),
        (lambda f: rewrite(f, lambda spec: spec | {"more": 1}), "no description of a model"),
    ],
)
def test_a_damaged_model_is_refused(
    tmp_path: Path, folder: Path, damage: Any, message: str
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    read_saved_model(copy)
    damage(copy)
    with pytest.raises(ValueError, match=message):
        Recommender.load(copy)


def test_an_export_from_before_a_field_of_the_shape_is_read(tmp_path: Path, folder: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    given = json.loads((copy / MODEL).read_text())["shape"]
    zeros = [name for name, value in given.items() if value == 0]
    rewrite(copy, lambda spec: spec | {"shape": {k: v for k, v in given.items() if v}})
    assert zeros
    answers = [Recommender.load(one).recommend([[IDS[0]]]) for one in (folder, copy)]
    assert answers[0] == answers[1]
