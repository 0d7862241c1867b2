"""Each user's history out of files of any kind, in parts that one machine holds in memory.

The first step of batch scoring. It goes through buckets on disk, as the build of a dataset does, so
a user's rows may lie anywhere in the input and each user is in exactly one part.
"""

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from skiprec.data.ingest.chunks import NO_ITEM, Tally
from skiprec.data.ingest.histories import FilterCounts, Histories, sort_histories
from skiprec.data.ingest.inputs import Files, check_inputs, read_inputs
from skiprec.data.ingest.raw_files import RawFile
from skiprec.data.ingest.recipe import Filters, Recipe
from skiprec.data.ingest.spill import Spill
from skiprec.durable import flush_to_disk, write_text_durably
from skiprec.inference.columns import lists_of

DONE = "histories.json"
BLOCK_BYTES = 4 << 20
EVERY_HASH = np.uint64(2**64 - 1)


def part_name(part: int) -> str:
    """The file of a part's histories."""
    return f"histories-{part:05d}.arrow"


def prepare_histories(
    recipe: Recipe,
    inputs: Sequence[RawFile],
    folder: Path,
    num_parts: int,
    progress: Callable[[str], None],
) -> list[int]:
    """Writes the histories to `folder`, one file a part; the number of users in each part.

    What an earlier call has finished is not done again. In a table of histories a user may have no
    item.

    Raises:
        ValueError: the inputs do not fit the recipe, or cannot be read.
    """
    done = folder / DONE
    if done.exists():
        counts: list[int] = json.loads(done.read_text())
        return counts
    files: Files = [(file, "train") for file in inputs]
    check_inputs(recipe, files)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    tally = Tally(0, 0, {}, keeps_empty=True)
    source = recipe.source
    spill = Spill(
        folder / "spill",
        num_parts,
        has_time=getattr(source, "time_column", None) is not None,
        has_order=getattr(source, "order_column", None) is not None,
    )
    try:
        for chunk, part in read_inputs(recipe, files, tally, BLOCK_BYTES):
            spill.add(chunk, part)
            progress(f"read {tally.rows_read:,} interactions")
    finally:
        spill.close()
    for reason, count in tally.bad_rows.items():
        progress(f"left out {count:,} rows: {reason}; the first: {tally.first_bad_row}")
    ids = pa.array(spill.item_ids, pa.string())
    counts = []
    for part_index in range(num_parts):
        histories = _histories_of(spill, part_index)
        counts.append(len(histories.hash_U))
        users = spill.original_ids(part_index, histories.hash_U)
        item_N = ids.take(pa.array(histories.item_N))
        is_item_N = pc.not_equal(item_N, NO_ITEM).to_numpy(zero_copy_only=False)
        user_N = np.repeat(np.arange(len(users)), histories.length_U)
        length_U = np.bincount(user_N[is_item_N], minlength=len(users))
        items = lists_of(item_N.filter(pa.array(is_item_N)), length_U)
        _write_table(folder / part_name(part_index), pa.table({"user": users, "items": items}))
        spill.discard(part_index)
        progress(f"sorted {sum(counts):,} users")
    shutil.rmtree(folder / "spill")
    flush_to_disk(folder)
    write_text_durably(done, json.dumps(counts))
    return counts


def _histories_of(spill: Spill, part: int) -> Histories:
    keep_I = np.ones(len(spill.item_ids), np.bool_)
    bucket = spill.bucket(part)
    filters = Filters(min_history=1)
    return sort_histories(bucket, EVERY_HASH, keep_I, filters, None, FilterCounts())


def _write_table(path: Path, table: pa.Table) -> None:
    with pa.ipc.new_file(str(path), table.schema) as writer:
        writer.write_table(table, max_chunksize=8192)
    flush_to_disk(path)
