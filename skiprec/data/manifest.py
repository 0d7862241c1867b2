"""The manifest of a dataset folder. It is written last: a folder without one is not a dataset."""

import hashlib
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError

from skiprec.data.profile import Profile
from skiprec.data.schema import MANIFEST_NAME, SCHEMA_VERSION, SCHEMA_VERSION_WITH_TIMES
from skiprec.durable import file_sha256, write_text_durably
from skiprec.frozen import Frozen

SplitKind = Literal["by_user", "leave_one_out", "by_window", "given", "by_time"]


class FileInfo(Frozen):
    """One Arrow file. `data_sha256` covers the values alone, so no Arrow version changes it."""

    name: str
    rows: int
    bytes: int
    sha256: str
    data_sha256: str


class SplitInfo(Frozen):
    """One split: its number of rows, and its files in the order of the rows."""

    rows: int
    files: tuple[FileInfo, ...]


class InputInfo(Frozen):
    """A raw file from which the dataset was built."""

    name: str
    part: Literal["train", "test"]
    bytes: int
    sha256: str


class Counts(Frozen):
    """The numbers of rows, users, items and interactions that a build read and left out."""

    # A row with a history counts with all of its interactions.
    rows_read: int
    bad_rows: dict[str, int]  # skipped ones by reason; empty unless on_bad_row = "skip"
    filtered_rows: int  # removed by the recipe's `keep` conditions
    cut_users: int  # beyond the first filters.max_users
    cut_users_interactions: int
    filtered_items: int  # rarer than min_item_count, or not among the max_items most frequent
    filtered_items_interactions: int
    dropped_repeats: int = 0  # by filters.drop_repeats
    short_histories: int  # users with fewer than filters.min_history items
    short_histories_interactions: int
    leftover_interactions: int  # in kept histories, but in no row of any split
    users_without_evaluation: int  # by_time, leave_one_out: nothing to hold out; all are in train
    empty_files: int = 0  # inputs without rows, beside others with rows
    partial_dates: int = 0  # rows with a day or month that is unknown: the first one is taken

    def describe(self) -> str:
        """One line: the interactions read, and those dropped by reason. The rest is kept."""
        dropped = [f"{count:,} in bad rows ({why})" for why, count in self.bad_rows.items()]
        for count, of in (
            (self.filtered_rows, "in filtered rows"),
            (self.cut_users_interactions, f"of {_plural(self.cut_users, 'cut user')}"),
            (self.filtered_items_interactions, f"of {_plural(self.filtered_items, 'rare item')}"),
            (self.dropped_repeats, "repeats"),
            (
                self.short_histories_interactions,
                f"of {_plural(self.short_histories, 'user')} with a short history",
            ),
        ):
            dropped += [f"{count:,} {of}"] if count else []
        asides = [
            _plural(count, noun)
            for count, noun in (
                (self.partial_dates, "partial date"),
                (self.empty_files, "empty file"),
            )
            if count
        ]
        read = _plural(self.rows_read, "interaction") + " read"
        read += f" ({', '.join(asides)})" if asides else ""
        return f"{read}; dropped: {', '.join(dropped) or 'none'}"

    def describe_kept(self) -> list[str]:
        """What is kept, but not in each kind of row; empty if all of it is."""
        lines = []
        if self.leftover_interactions:
            lines.append(f"{self.leftover_interactions:,} interactions are in no row")
        if self.users_without_evaluation:
            users = _plural(self.users_without_evaluation, "user")
            lines.append(f"{users} only in train")
        return lines


def _plural(count: int, noun: str) -> str:
    return f"{count:,} {noun}" + ("" if count == 1 else "s")


class Manifest(Frozen):
    """The facts about a dataset that a reader needs before it opens a shard."""

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
    profile: Profile | None = None  # None: built by a version that did not write one
    inputs: tuple[InputInfo, ...]
    edition: dict[str, str]  # facts about the edition of a source that is reissued; often empty
    recipe: dict[str, Any]
    recipe_hash: str

    @property
    def has_times(self) -> bool:
        """Whether the shards have the time of each item."""
        return self.schema_version == SCHEMA_VERSION_WITH_TIMES

    def describe(self) -> str:
        """What a person checks after a build, in a few lines."""
        repeats = self.profile.repeats if self.profile else 0
        density = (self.num_interactions - repeats) / (self.num_users * self.num_items)
        rows = ", ".join(f"{info.rows:,} {split}" for split, info in self.splits.items())
        interactions = _plural(self.num_interactions, "interaction")
        users, items = _plural(self.num_users, "user"), _plural(self.num_items, "item")
        lines = [
            self.counts.describe(),
            f"kept: {interactions} of {users} with {items} (density {density:.2%})",
            "; ".join((f"rows: {rows}", *self.counts.describe_kept())),
        ]
        return "\n".join(lines + (self.profile.describe() if self.profile else []))

    @property
    def content_hash(self) -> str:
        """sha256 of the values in the shards and tables; equal data has an equal hash anywhere."""
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
        """Every file of the folder except the manifest."""
        shards = [file for split in self.splits.values() for file in split.files]
        return (*shards, self.items, self.users)


def canonical_sha256(value: Any) -> str:
    """sha256 of the JSON text of `value`, with sorted keys."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()


def read_manifest(folder: Path) -> Manifest:
    """The manifest of a dataset folder.

    Raises:
        ValueError: no dataset is there, or one of another schema version.
    """
    path = folder / MANIFEST_NAME
    if not folder.is_dir():
        raise ValueError(
            f"{folder}: no such folder; build a dataset there with a script of datasets/"
        )
    if not path.is_file():
        raise ValueError(
            f"{folder} is not a dataset: it has no {MANIFEST_NAME}, which is written last; "
            "remove the folder and build the dataset again with a script of datasets/"
        )
    try:
        content = json.loads(path.read_text())
        version = content["schema_version"]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{path} is not a manifest: expected JSON with a schema_version ({error}); "
            "build the dataset again"
        ) from error
    if version not in (SCHEMA_VERSION, SCHEMA_VERSION_WITH_TIMES):
        raise ValueError(
            f"{path} has schema version {version}, this version reads {SCHEMA_VERSION} and "
            f"{SCHEMA_VERSION_WITH_TIMES}; build the dataset again with a script of datasets/"
        )
    try:
        return Manifest.model_validate(content)
    except ValidationError as error:
        raise ValueError(f"{path} does not follow schema version {version}: {error}") from error


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Writes the manifest, which makes a dataset of the folder: every other file is there before.

    It is flushed to the disk before it gets its name.
    """
    write_text_durably(folder / MANIFEST_NAME, manifest.model_dump_json(indent=2) + "\n")


def check_sizes(folder: Path, files: tuple[FileInfo, ...]) -> None:
    """Raises ValueError if a file is missing or has another size than in the manifest."""
    for file in files:
        path = folder / file.name
        if not path.is_file():
            raise ValueError(f"{path} is missing; the manifest lists it: build the dataset again")
        if (size := path.stat().st_size) != file.bytes:
            raise ValueError(
                f"{path} has {size:,} bytes, the manifest says {file.bytes:,}; "
                "the file was cut or changed: build the dataset again"
            )


def verify_files(folder: Path, manifest: Manifest) -> None:
    """Reads every file in full, several at once.

    Raises:
        ValueError: the first file whose size or sha256 is not the one in the manifest.
    """
    check_sizes(folder, manifest.files())
    with ThreadPoolExecutor() as pool:  # hashing releases Python's global lock
        sums = pool.map(lambda file: file_sha256(folder / file.name), manifest.files())
        for file, sha256 in zip(manifest.files(), sums, strict=True):
            if sha256 != file.sha256:
                raise ValueError(
                    f"{folder / file.name} has sha256 {sha256}, the manifest says {file.sha256}; "
                    "the file was changed after the build: build the dataset again"
                )
