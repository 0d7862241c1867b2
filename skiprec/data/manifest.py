"""The manifest of a dataset folder: written last, so a folder without one is not a dataset."""

import hashlib
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError

from skiprec.data.schema import MANIFEST_NAME, SCHEMA_VERSION
from skiprec.durable import file_sha256, write_text_durably
from skiprec.frozen import Frozen

SplitKind = Literal["by_user", "leave_one_out", "by_window", "given"]


class FileInfo(Frozen):
    """One Arrow file. `data_sha256` is over the values alone, so no Arrow version changes it."""

    name: str
    rows: int
    bytes: int
    sha256: str
    data_sha256: str


class SplitInfo(Frozen):
    """The rows of one split, over its files in order."""

    rows: int
    files: tuple[FileInfo, ...]


class InputInfo(Frozen):
    """A raw file that the dataset was built from."""

    name: str
    part: Literal["train", "test"]
    bytes: int
    sha256: str


class Counts(Frozen):
    """What was read and what was left out on the way to the rows."""

    rows_read: int
    bad_rows: dict[str, int]  # skipped lines by reason; empty unless on_bad_row = "skip"
    filtered_rows: int  # removed by the recipe's `keep` conditions
    cut_users: int  # beyond filters.max_users
    cut_users_interactions: int
    filtered_items: int  # rarer than min_item_count, or beyond max_items
    filtered_items_interactions: int
    short_histories: int  # users with fewer than filters.min_history items
    short_histories_interactions: int
    leftover_interactions: int  # of kept histories, but in no row of any split
    users_without_evaluation: int  # leave_one_out: too short to hold an item out, all in train

    def describe(self) -> str:
        """What was left out, on one line; counts of zero are not named."""
        skipped = [f"{count:,} bad rows ({reason})" for reason, count in self.bad_rows.items()]
        left_out = [
            f"{count:,} {name.replace('_', ' ')}"
            for name, count in self.model_dump(exclude={"rows_read", "bad_rows"}).items()
            if count
        ]
        return (
            f"{self.rows_read:,} rows read; left out: {', '.join(skipped + left_out) or 'nothing'}"
        )


class Manifest(Frozen):
    """Everything that a reader needs to know about a dataset before it opens a shard."""

    schema_version: int
    name: str
    window: int
    num_items: int  # ids are 1..num_items; 0 is padding
    num_users: int
    num_interactions: int  # of kept histories
    split_kind: SplitKind
    splits: dict[str, SplitInfo]
    items: FileInfo
    users: FileInfo
    counts: Counts
    inputs: tuple[InputInfo, ...]
    edition: dict[str, str]  # facts about the source that change over the years; often empty
    recipe: dict[str, Any]
    recipe_hash: str

    @property
    def content_hash(self) -> str:
        """sha256 over the values in the shards and tables; equal data, equal hash, anywhere."""
        content = {
            "schema_version": self.schema_version,
            "window": self.window,
            "splits": {
                name: [file.data_sha256 for file in split.files]
                for name, split in self.splits.items()
            },
            "items": self.items.data_sha256,
            "users": self.users.data_sha256,
        }
        return canonical_sha256(content)

    def files(self) -> tuple[FileInfo, ...]:
        """Every file of the folder but the manifest."""
        shards = [file for split in self.splits.values() for file in split.files]
        return (*shards, self.items, self.users)


def canonical_sha256(value: Any) -> str:
    """sha256 of `value` as JSON with sorted keys."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()


def read_manifest(folder: Path) -> Manifest:
    """The manifest of a dataset folder; ValueError if it is none that this build can read."""
    path = folder / MANIFEST_NAME
    if not folder.is_dir():
        raise ValueError(
            f"{folder}: no such folder; build a dataset there with datasets/build_*.py"
        )
    if not path.is_file():
        raise ValueError(
            f"{folder} is not a dataset: it has no {MANIFEST_NAME}, which is written last; "
            "remove the folder and build it again with datasets/build_*.py"
        )
    try:
        content = json.loads(path.read_text())
        found = content["schema_version"]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{path} is no manifest: expected JSON with a schema_version ({error}); "
            "build the dataset again"
        ) from error
    if found != SCHEMA_VERSION:
        raise ValueError(
            f"{path} has schema version {found}, this build reads {SCHEMA_VERSION}; "
            "build the dataset again with datasets/build_*.py"
        )
    try:
        return Manifest.model_validate(content)
    except ValidationError as error:
        raise ValueError(f"{path} does not follow schema version {found}: {error}") from error


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Writes the manifest, which makes a dataset of the folder: every other file is there before.

    It is flushed to the disk before it gets its name.
    """
    write_text_durably(folder / MANIFEST_NAME, manifest.model_dump_json(indent=2) + "\n")


def check_sizes(folder: Path, files: tuple[FileInfo, ...]) -> None:
    """ValueError if a file is missing or has another size than the manifest says."""
    for file in files:
        path = folder / file.name
        if not path.is_file():
            raise ValueError(f"{path} is missing; the manifest lists it: build the dataset again")
        if (found := path.stat().st_size) != file.bytes:
            raise ValueError(
                f"{path} has {found:,} bytes, the manifest says {file.bytes:,}; "
                "it was cut or changed: build the dataset again"
            )


def verify_files(folder: Path, manifest: Manifest) -> None:
    """Read every file in full, several at once; ValueError names the first whose sha256 differs."""
    check_sizes(folder, manifest.files())
    with ThreadPoolExecutor() as pool:  # hashing leaves Python's lock
        sums = pool.map(lambda file: file_sha256(folder / file.name), manifest.files())
        for file, found in zip(manifest.files(), sums, strict=True):
            if found != file.sha256:
                raise ValueError(
                    f"{folder / file.name} has sha256 {found}, the manifest says {file.sha256}; "
                    "it was changed after it was written: build the dataset again"
                )
