"""The folder of an exported model: what it holds, and how it is read and checked.

It needs neither torch nor the code of training. The manifest is written last, so a folder without
one is no model; it has the sha256 of every other file.
"""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from safetensors.numpy import load_file

from skiprec.durable import file_sha256, write_text_durably
from skiprec.inference.native.library import Lists, Shape

FORMAT_VERSION = 2
MANIFEST, MODEL, WEIGHTS = "manifest.json", "model.json", "weights.safetensors"
ITEMS, SELF_TEST = "items.arrow", "self_test.json"
FILES = (MODEL, WEIGHTS, ITEMS, SELF_TEST)


@dataclass(frozen=True)
class CurvePoint:
    """The policy at one setting, or an exit for everyone, measured on validation rows.

    Args:
        keep: the mean share of blocks that run.
        setting: of the policy's rule (`NativeModel.recommend`); of an exit, its depth.
    """

    keep: float
    setting: float
    mrr_at_20: float
    hr_at_20: float


@dataclass(frozen=True)
class ModelSpec:
    """Everything about a model but its weights and items.

    Args:
        shape: the fields of `native.library.Shape`.
        setting: of the policy's rule, as it was trained.
        constant_keep: which blocks run for everyone, for a policy that learns nothing; else empty.
        exit_depths: the blocks before each norm that precedes the scores.
        curve: points of a learned policy, or without one the exits, rising in `keep`; else empty.
        made_by: run, commit, versions, data and dates, for people.
    """

    name: str
    backbone: str
    policy: str
    shape: dict[str, int]
    dilations: tuple[int, ...]
    set_sizes: tuple[int, ...]
    exit_depths: tuple[int, ...]
    setting: float
    constant_keep: tuple[bool, ...]
    curve: tuple[CurvePoint, ...]
    made_by: dict[str, Any] = field(default_factory=dict)

    @property
    def native_shape(self) -> Shape:
        """The shape as the native library takes it."""
        return Shape(**self.shape)

    @property
    def lists(self) -> Lists:
        """The lists of the shape, as the native library takes them."""
        return Lists(self.dilations, self.set_sizes, self.exit_depths)

    def to_json(self) -> str:
        """The contents of `model.json`."""
        return json.dumps({"format_version": FORMAT_VERSION, **asdict(self)}, indent=1)


def spec_from_json(text: str, where: Path) -> ModelSpec:
    """The contents of a `model.json`.

    Raises:
        ValueError: another format version, or a key is missing or unknown.
    """
    content = json.loads(text)
    if not isinstance(content, dict):
        raise ValueError(f"{where} is no description of a model: expected an object of JSON")
    version = content.pop("format_version", None)
    if version != FORMAT_VERSION:
        raise ValueError(
            f"{where} has format version {version}; this program reads version {FORMAT_VERSION}: "
            "export the model again with this program, or use the program that exported it"
        )
    try:
        content["curve"] = tuple(CurvePoint(**point) for point in content["curve"])
        for name in ("dilations", "set_sizes", "exit_depths", "constant_keep"):
            content[name] = tuple(content[name])
        spec = ModelSpec(**content)
        # A field that is missing is 0, as in exports from before the field.
        if missing := {"blocks", "items", "width", "window"} - set(spec.shape):
            raise ValueError(f"shape has no {min(missing)!r}")
        _ = spec.native_shape, [float(point.keep) for point in spec.curve]
        return spec
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ValueError(f"{where} is no description of a model: {error}") from error


@dataclass(frozen=True)
class SavedModel:
    """A model that was read from its folder.

    Args:
        ids: the original id of each item; entry v is item v + 1.
        count_V: how often each item occurs in the training rows.
        self_test: histories of original ids with their answers.
        names: of the items, for people; None for an item without one.
    """

    spec: ModelSpec
    weights: dict[str, NDArray[np.float32]]
    ids: list[str]
    count_V: NDArray[np.int64]
    self_test: list[dict[str, Any]]
    names: list[str | None]


def write_manifest(folder: Path) -> None:
    """Makes a folder with all other files a model."""
    sums = {file.name: file_sha256(file) for file in sorted(folder.iterdir())}
    content = {"format_version": FORMAT_VERSION, "sha256": sums}
    write_text_durably(folder / MANIFEST, json.dumps(content, indent=1))


def read_saved_model(folder: Path) -> SavedModel:
    """Reads and checks an exported model.

    Raises:
        ValueError: no model in this folder, another format version, or a damaged file.
    """
    path = folder / MANIFEST
    try:
        manifest = json.loads(path.read_text())
    except (FileNotFoundError, NotADirectoryError):
        raise ValueError(
            f"{folder} holds no exported model (no {MANIFEST}); export one with "
            "jobs/export_model.py --run RUN --output DIR"
        ) from None
    except ValueError as error:
        raise ValueError(f"{path} is damaged: {error}") from error
    if not isinstance(manifest, dict) or not isinstance(manifest.get("sha256", {}), dict):
        raise ValueError(f"{path} is damaged: expected an object with the sha256 of each file")
    if manifest.get("format_version") != FORMAT_VERSION:
        raise ValueError(
            f"{path} has format version {manifest.get('format_version')}; this program reads "
            f"version {FORMAT_VERSION}: export the model again with this program"
        )
    sums = manifest.get("sha256", {})
    for name in dict.fromkeys((*FILES, *sums)):
        expected, file = sums.get(name), folder / name
        if not file.exists() or file_sha256(file) != expected:
            state = "is damaged" if file.exists() else "is missing"
            raise ValueError(
                f"{file} {state} (its sha256 is not that of {MANIFEST}); copy it again"
            )
    spec = spec_from_json((folder / MODEL).read_text(), folder / MODEL)
    with pa.memory_map(str(folder / ITEMS)) as mapped:
        items = pa.ipc.open_file(mapped).read_all()
    return SavedModel(
        spec,
        load_file(folder / WEIGHTS),
        items["id"].to_pylist(),
        items["count"].to_numpy(),
        json.loads((folder / SELF_TEST).read_text()),
        items["name"].to_pylist() if "name" in items.column_names else [None] * len(items),
    )
