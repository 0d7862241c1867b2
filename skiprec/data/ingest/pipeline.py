"""Builds a dataset folder from input files and a recipe; one bucket of users is in memory.

1. read: stream the inputs to buckets on disk, by the hash of the user (`spill.py`)
2. filter: count items, then filter and sort each bucket alone (`histories.py`)
3. write: number the items, split, cut rows, write shards and tables (`assemble.py`)

The manifest is written last. Then the finished folder gets its name (`publish.py`).
"""

import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt

from skiprec.data.ingest.assemble import Assembler
from skiprec.data.ingest.chunks import Tally
from skiprec.data.ingest.cut_offs import find_cut_offs
from skiprec.data.ingest.histories import (
    FilterCounts,
    Histories,
    count_items,
    kept_items,
    last_user_hash,
    sort_histories,
)
from skiprec.data.ingest.inputs import (
    Files,
    check_inputs,
    clock_of_inputs,
    describe_input,
    first_user,
    read_inputs,
)
from skiprec.data.ingest.item_names import NameTable, describe_names, read_names
from skiprec.data.ingest.publish import publishing, refuse_existing
from skiprec.data.ingest.raw_files import RawFile
from skiprec.data.ingest.recipe import Recipe
from skiprec.data.ingest.spill import Spill
from skiprec.data.ingest.times import Clock
from skiprec.data.manifest import Counts, Manifest, write_manifest
from skiprec.data.schema import SCHEMA_VERSION, SCHEMA_VERSION_WITH_TIMES
from skiprec.data.splits import ByTime

Progress = Callable[[str], None]
Longs = npt.NDArray[np.int64]


def build_dataset(
    recipe: Recipe,
    inputs: Sequence[RawFile],
    output: Path,
    *,
    progress: Progress,
    test_inputs: Sequence[RawFile] = (),
    edition: Mapping[str, str] | None = None,
    item_names: NameTable | None = None,
    expected_rows: int | None = None,
    num_buckets: int = 128,
    block_bytes: int = 4 << 20,
) -> Manifest:
    """Builds the dataset folder `output` and returns its manifest; an error leaves no folder.

    Args:
        progress: is called with a line of text from time to time.
        test_inputs: the test files of the split `given`.
        edition: facts about the state of the source, for the manifest.
        item_names: where the names of items are; they change no row.
        expected_rows: number of rows of the inputs, if it is known.
        num_buckets: number of parts of the users, of which one is in memory at a time. It does not
            change the result.
        block_bytes: size of the piece of input that is parsed at a time. It does not change the
            result.

    Raises:
        ValueError: the folder exists, the inputs do not fit the recipe or cannot be read, or no row
            is left.
    """
    refuse_existing(output)
    files: Files = [(file, "train") for file in inputs]
    files += [(file, "test") for file in test_inputs]
    check_inputs(recipe, files)
    names = None if item_names is None else read_names(item_names)
    with publishing(output) as folder:
        scratch = folder / "scratch"
        scratch.mkdir()
        tally = Tally(0, 0, {})
        spill = _read(recipe, files, scratch, tally, num_buckets, block_bytes, progress)
        if expected_rows is not None and tally.rows_read != expected_rows:
            raise ValueError(
                f"{files[0][0]} has {tally.rows_read:,} rows, expected the {expected_rows:,} that "
                "its README states; download it again"
            )
        filtered = FilterCounts()
        clock = clock_of_inputs(recipe, files)
        count_I = _filter(recipe, spill, scratch, filtered, clock, progress)
        if not count_I.any():
            raise ValueError(_nothing_left(recipe, files, tally, filtered))
        cut_offs = None
        if isinstance(recipe.split, ByTime):
            cut_offs = find_cut_offs(recipe.split, partial(_read_times, scratch, num_buckets))
        assembler = Assembler(recipe, folder, spill.item_ids, count_I, cut_offs, names)
        for index in range(num_buckets):
            histories = Histories.load(scratch / f"histories-{index}.npz")
            assembler.add(histories, spill.original_ids(index, histories.hash_U))
        written = assembler.close()
        shutil.rmtree(scratch)
        manifest = Manifest(
            schema_version=SCHEMA_VERSION_WITH_TIMES if recipe.times else SCHEMA_VERSION,
            name=recipe.name,
            window=recipe.window,
            num_items=assembler.num_items,
            num_users=assembler.num_users,
            num_interactions=int(count_I.sum()),
            split_kind=recipe.split.kind,
            splits=written.splits,
            items=written.items,
            users=written.users,
            counts=Counts(
                rows_read=tally.rows_read,
                filtered_rows=tally.filtered_rows,
                bad_rows=dict(sorted(tally.bad_rows.items())),
                **vars(filtered),
                leftover_interactions=assembler.leftover_interactions,
                users_without_evaluation=assembler.users_without_evaluation,
                partial_dates=tally.partial_dates,
                empty_files=tally.empty_files,
            ),
            profile=written.profile,
            inputs=tuple(describe_input(file, part) for file, part in files),
            edition=dict(edition or {}) | _origin_of_names(item_names),
            recipe=recipe.model_dump(mode="json"),
            recipe_hash=recipe.hash,
        )
        write_manifest(folder, manifest)
    progress(summary(manifest))
    return manifest


def summary(manifest: Manifest) -> str:
    """One line with the numbers of users, items, interactions and rows."""
    rows = ", ".join(f"{info.rows:,} {split}" for split, info in manifest.splits.items())
    return (
        f"{manifest.name}: {manifest.num_users:,} users, {manifest.num_items:,} items, "
        f"{manifest.num_interactions:,} interactions; rows: {rows}"
    )


def _origin_of_names(item_names: NameTable | None) -> dict[str, str]:
    return {} if item_names is None else {"item names": describe_names(item_names)}


def _read(
    recipe: Recipe,
    files: Files,
    scratch: Path,
    tally: Tally,
    num_buckets: int,
    block_bytes: int,
    progress: Progress,
) -> Spill:
    source = recipe.source
    has_time = getattr(source, "time_column", None) is not None
    has_order = getattr(source, "order_column", None) is not None
    spill = Spill(scratch / "spill", num_buckets, has_time=has_time, has_order=has_order)
    try:
        for chunk, part in read_inputs(recipe, files, tally, block_bytes):
            spill.add(chunk, part)
            progress(f"read {tally.rows_read:,} interactions")
    finally:
        spill.close()
    if tally.bad_rows:
        reasons = ", ".join(f"{count:,} {reason}" for reason, count in tally.bad_rows.items())
        progress(f"skipped interactions in bad rows: {reasons}; the first: {tally.first_bad_row}")
    return spill


def _read_times(scratch: Path, num_buckets: int) -> Iterator[Longs]:
    for index in range(num_buckets):
        ms_N = Histories.load(scratch / f"histories-{index}.npz").ms_N
        assert ms_N is not None  # `check_inputs` refuses a split by time of inputs without dates
        yield ms_N


def _filter(
    recipe: Recipe,
    spill: Spill,
    scratch: Path,
    filtered: FilterCounts,
    clock: Clock | None,
    progress: Progress,
) -> Longs:
    """The number of occurrences of each item code in the kept histories, which it saves.

    Each bucket's histories are in one file in `scratch`.
    """
    filters = recipe.filters
    last_hash = np.uint64(2**64 - 1)
    if filters.max_users is not None:
        last_hash = last_user_hash(spill, filters.max_users)
    keep_I = np.ones(len(spill.item_ids), np.bool_)
    if filters.min_item_count > 1 or filters.max_items is not None:
        count_I = count_items(spill, last_hash)
        keep_I = kept_items(count_I, spill.item_ids, filters)
        filtered.filtered_items = int(((count_I > 0) & ~keep_I).sum())
    count_I = np.zeros(len(spill.item_ids), np.int64)
    for index in range(spill.num_buckets):
        bucket = spill.bucket(index)
        histories = sort_histories(bucket, last_hash, keep_I, filters, clock, filtered)
        count_I += np.bincount(histories.item_N, minlength=len(count_I))
        histories.save(scratch / f"histories-{index}.npz")
        spill.discard(index)
    progress(f"sorted {count_I.sum():,} interactions")
    return count_I


def _nothing_left(recipe: Recipe, files: Files, tally: Tally, filtered: FilterCounts) -> str:
    if not tally.rows_read - tally.filtered_rows - sum(tally.bad_rows.values()):
        start = ", ".join(str(file) for file, _ in files)
    else:
        start = first_user(recipe, files) if files else recipe.name
    return (
        f"{start}: no history is left of {tally.rows_read:,} interactions; expected a user with at "
        f"least {recipe.filters.min_history} items. {filtered.short_histories:,} users had fewer; "
        f"conditions dropped {tally.filtered_rows:,} interactions, item filters "
        f"{filtered.filtered_items_interactions:,}, repeats {filtered.dropped_repeats:,}, "
        f"bad rows {sum(tally.bad_rows.values()):,}"
    )
