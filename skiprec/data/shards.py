"""Shards: Arrow files of rows, written in fixed pieces and read through a memory map."""

import hashlib
import mmap
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from skiprec.data.manifest import (
    FileInfo,
    Manifest,
    SplitInfo,
    check_sizes,
    read_manifest,
)
from skiprec.data.schema import ITEMS_NAME, ROWS_PER_FILE, row_schema
from skiprec.durable import file_sha256, flush_to_disk

Ints = npt.NDArray[np.int32]
Longs = npt.NDArray[np.int64]
Column = Ints | Longs


@dataclass(frozen=True)
class Rows:
    """Some rows of a split. The arrays are writable copies that belong to the caller."""

    items_RW: Ints  # left-padded with 0, the newest item last
    user_R: Ints  # index into users.arrow
    end_R: Ints  # position of the newest item in the user's history, counted from 1
    row_R: Longs  # index of the row within its split
    times_RW: Longs | None = None  # milliseconds since 1970, 0 at padding; None without times
    num_scored_R: Longs | None = None  # only so many of the newest items count; None: all


class ShardSet:
    """All rows of one split, numbered 0..num_rows-1 over its files.

    Opening maps the files and reads no row. It checks the sizes of the files;
    `manifest.verify_files` checks their contents.
    """

    def __init__(self, folder: Path, manifest: Manifest, split: str) -> None:
        self.folder = folder
        self.manifest = manifest
        self.split = split
        info = manifest.splits[split]
        self.num_rows = info.rows
        self.window = manifest.window
        self.num_items = manifest.num_items
        self.num_users = manifest.num_users
        self.has_times = manifest.has_times
        self._files = [
            _map_file(folder / file.name, self.window, self.has_times, file.rows)
            for file in info.files
        ]
        self._starts = np.cumsum([0, *(file.rows for file in info.files)])

    @classmethod
    def open(cls, folder: Path, split: str) -> "ShardSet":
        """The rows of `split` in a dataset folder.

        Raises:
            ValueError: the folder is not a dataset, has no such split, or a file is missing or cut.
        """
        manifest = read_manifest(folder)
        if split not in manifest.splits:
            raise ValueError(
                f"{folder} has no split {split!r}; it has {', '.join(manifest.splits)}"
            )
        check_sizes(folder, manifest.splits[split].files)
        return cls(folder, manifest, split)

    def take(self, rows_R: npt.NDArray[np.integer]) -> Rows:
        """The rows with these indices, in this order; an index may repeat."""
        row_R = np.asarray(rows_R, dtype=np.int64)
        if row_R.size and not (0 <= row_R.min() and row_R.max() < self.num_rows):
            raise ValueError(
                f"expected rows of split {self.split!r}, 0..{self.num_rows - 1}; "
                f"got rows {row_R.min()}..{row_R.max()}"
            )
        rows = self._empty(row_R)
        file_R = np.searchsorted(self._starts, row_R, side="right") - 1
        for file in np.unique(file_R):
            here_R = np.flatnonzero(file_R == file)
            within_R = row_R[here_R] - self._starts[file]
            for name, values in self._files[file].items():
                getattr(rows, name)[here_R] = values[within_R]
        return rows

    def users_and_ends(self) -> tuple[Longs, Longs]:
        """`user_R` and `end_R` of all rows, without their items."""
        user_R, end_R = (
            np.concatenate([np.empty(0, np.int64), *(columns[name] for columns in self._files)])
            for name in ("user_R", "end_R")
        )
        return user_R, end_R

    def slice(self, start: int, stop: int) -> Rows:
        """The rows start..stop-1."""
        if not 0 <= start <= stop <= self.num_rows:
            raise ValueError(
                f"expected a range of the {self.num_rows} rows of split {self.split!r}; "
                f"got rows {start}..{stop}"
            )
        rows = self._empty(np.arange(start, stop, dtype=np.int64))
        for file, columns in enumerate(self._files):
            low, high = (int(x) for x in np.clip(self._starts[file : file + 2], start, stop))
            inside = np.s_[low - self._starts[file] : high - self._starts[file]]
            for name, values in columns.items():
                getattr(rows, name)[low - start : high - start] = values[inside]
        return rows

    def _empty(self, row_R: Longs) -> Rows:
        """Rows to be filled, with these indices."""
        shape = (len(row_R), self.window)
        return Rows(
            items_RW=np.empty(shape, np.int32),
            user_R=np.empty(len(row_R), np.int32),
            end_R=np.empty(len(row_R), np.int32),
            row_R=row_R,
            times_RW=np.empty(shape, np.int64) if self.has_times else None,
        )


def items_hash(folder: Path) -> str:
    """sha256 of the original ids in the order of the item ids.

    It is equal for two datasets whose ids mean the same items, whatever their splits and windows.
    """
    digest = hashlib.sha256()
    with pa.OSFile(str(folder / ITEMS_NAME)) as file:
        reader = pa.ipc.open_file(file)
        for index in range(reader.num_record_batches):
            for item in reader.get_batch(index).column("original_id").to_pylist():
                digest.update(f"{item}\n".encode())
    return digest.hexdigest()


def _map_file(
    path: Path, window: int, has_times: bool, rows: int
) -> dict[str, npt.NDArray[np.integer]]:
    """Read-only views of the columns of one file, by their names in `Rows`; no copy.

    The arrays keep the memory map alive. MADV_RANDOM stops the kernel from reading ahead. Training
    reads small blocks in random order, so reading ahead (up to megabytes for each page fault) would
    read many times the bytes that are used and, where memory is short, evict pages that are still
    needed.
    """
    with path.open("rb") as file:
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    mapped.madvise(mmap.MADV_RANDOM)
    try:
        reader = pa.ipc.open_file(pa.py_buffer(mapped))
    except pa.ArrowInvalid as error:
        raise ValueError(
            f"{path} is not an Arrow file ({error}); build the dataset again"
        ) from error
    schema = row_schema(window, has_times=has_times)
    if reader.schema != schema or reader.num_record_batches != 1:
        raise ValueError(
            f"{path}: expected one record batch of {schema}, got "
            f"{reader.num_record_batches} of {reader.schema}; build the dataset again"
        )
    batch = reader.get_batch(0)
    if batch.num_rows != rows:
        raise ValueError(
            f"{path} has {batch.num_rows} rows, the manifest says {rows}; build the dataset again"
        )
    columns = {
        "user_R": batch.column("user").to_numpy(zero_copy_only=True),
        "end_R": batch.column("end").to_numpy(zero_copy_only=True),
    }
    for name in ("items", "times") if has_times else ("items",):
        values = batch.column(name).values.to_numpy(zero_copy_only=True)
        columns[f"{name}_RW"] = values.reshape(rows, window)
    return columns


class ShardWriter:
    """Collects the rows of one split and writes a file for every ROWS_PER_FILE of them.

    The files depend on the sequence of rows alone, not on how calls of `append` divide it.
    """

    def __init__(self, folder: Path, split: str, window: int, *, has_times: bool = False) -> None:
        self._folder = folder
        self._split = split
        self._schema = row_schema(window, has_times=has_times)
        self._files: list[FileInfo] = []
        self._pending: list[tuple[Column, ...]] = []
        self._num_pending = 0

    def append(
        self, user_R: Ints, end_R: Ints, items_RW: Ints, times_RW: Longs | None = None
    ) -> None:
        """Adds rows at the end of the split, with times if the shards have them."""
        times = () if times_RW is None else (times_RW,)
        self._pending.append((user_R, end_R, items_RW, *times))
        self._num_pending += len(user_R)
        if self._num_pending >= ROWS_PER_FILE:
            self._write_full_files()

    def close(self) -> SplitInfo:
        """Writes the last, shorter file and returns the description of the split."""
        if self._num_pending:
            self._write_file(self._join_pending())
        return SplitInfo(rows=sum(f.rows for f in self._files), files=tuple(self._files))

    def _join_pending(self) -> tuple[Column, ...]:
        return tuple(np.concatenate(part) for part in zip(*self._pending, strict=True))

    def _write_full_files(self) -> None:
        columns = self._join_pending()
        full = self._num_pending - self._num_pending % ROWS_PER_FILE
        for start in range(0, full, ROWS_PER_FILE):
            self._write_file(tuple(column[start : start + ROWS_PER_FILE] for column in columns))
        self._pending = [tuple(column[full:] for column in columns)]
        self._num_pending -= full

    def _write_file(self, columns: tuple[Column, ...]) -> None:
        arrays = [
            pa.FixedSizeListArray.from_arrays(
                pa.array(np.ascontiguousarray(column).reshape(-1)), column.shape[1]
            )
            if column.ndim == 2
            else pa.array(column)
            for column in columns
        ]
        name = f"{self._split}-{len(self._files):05d}.arrow"
        table = TableWriter(self._folder / name, self._schema)
        table.append(pa.record_batch(arrays, schema=self._schema))
        self._files.append(table.close())


class TableWriter:
    """Writes one uncompressed Arrow IPC file, in batches of ROWS_PER_FILE rows.

    The file does not depend on the sizes of the batches that are appended.
    """

    def __init__(self, path: Path, schema: pa.Schema) -> None:
        self._path = path
        self._schema = schema
        self._writer = pa.ipc.new_file(str(path), schema)
        self._pending: list[pa.RecordBatch] = []
        self._rows = 0
        self._digest = hashlib.sha256()

    def append(self, batch: pa.RecordBatch) -> None:
        """Adds rows at the end of the file."""
        self._pending.append(batch)
        self._rows += batch.num_rows
        self._write(everything=False)

    def close(self) -> FileInfo:
        """Writes the rest, flushes the file to the disk and returns its description."""
        self._write(everything=True)
        self._writer.close()
        flush_to_disk(self._path)
        return FileInfo(
            name=self._path.name,
            rows=self._rows,
            bytes=self._path.stat().st_size,
            sha256=file_sha256(self._path),
            data_sha256=self._digest.hexdigest(),
        )

    def _write(self, *, everything: bool) -> None:
        while (waiting := sum(batch.num_rows for batch in self._pending)) >= ROWS_PER_FILE or (
            everything and waiting
        ):
            table = pa.Table.from_batches(self._pending, self._schema).combine_chunks()
            batch = table.slice(0, ROWS_PER_FILE).to_batches()[0]
            self._writer.write_batch(batch)
            for column in batch.columns:
                self._digest.update(_value_bytes(column))
            self._pending = table.slice(ROWS_PER_FILE).to_batches()


NULL = "\x1a"  # stands for a missing text


def _value_bytes(column: pa.Array) -> bytes:
    """The values of a column as bytes, independent of how Arrow stores them."""
    if pa.types.is_fixed_size_list(column.type):
        column = column.flatten()
    if pa.types.is_string(column.type):
        values = (NULL if value is None else value for value in column.to_pylist())
        return "\0".join(values).encode() + b"\0"
    return bytes(np.ascontiguousarray(column.to_numpy()).astype(column.type.to_pandas_dtype()).data)
