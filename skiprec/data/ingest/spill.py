"""The first step of a build: interactions on disk, in buckets of users.

Later steps read one bucket at a time, so no more than one is in memory.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from skiprec.data.hashing import Hashes, hash_texts
from skiprec.data.ingest.chunks import Chunk, Part

_USER_SCHEMA = pa.schema([("hash", pa.uint64()), ("id", pa.string())])


@dataclass(frozen=True)
class Bucket:
    """The interactions of some users, in the order in which they were read."""

    hash_N: Hashes
    item_N: npt.NDArray[np.int32]  # codes into Spill.item_ids
    time_N: npt.NDArray[np.int64] | None
    order_N: npt.NDArray[np.int64] | None
    is_test_N: npt.NDArray[np.bool_]


class Spill:
    """The buckets of a build. A bucket is a range of user hashes.

    The buckets in sequence therefore hold the users in the order of their hash, which does not
    depend on the number of buckets or the size of chunks.
    """

    def __init__(self, folder: Path, num_buckets: int, *, has_time: bool, has_order: bool) -> None:
        self.num_buckets = num_buckets
        self.item_ids: list[str] = []
        self._code_of: dict[str, int] = {}
        fields = [("hash", np.uint64), ("item", np.int32), ("is_test", np.bool_)]
        fields += [("time", np.int64)] * has_time + [("order", np.int64)] * has_order
        self._dtype = np.dtype(fields)
        folder.mkdir()
        self._rows = [folder / f"rows-{bucket:04d}.bin" for bucket in range(num_buckets)]
        self._users = [folder / f"users-{bucket:04d}.arrow" for bucket in range(num_buckets)]
        self._row_sinks = [path.open("wb") for path in self._rows]
        self._user_sinks = [pa.ipc.new_stream(str(path), _USER_SCHEMA) for path in self._users]

    def add(self, chunk: Chunk, part: Part) -> None:
        """Appends the interactions of a chunk to the buckets of their users."""
        users = chunk.users_N.dictionary_encode()
        hash_U = hash_texts(users.dictionary)
        hash_N = hash_U[users.indices.to_numpy()]
        rows_N = np.empty(len(hash_N), self._dtype)
        rows_N["hash"] = hash_N
        rows_N["item"] = self._item_codes(chunk.items_N)
        rows_N["is_test"] = part == "test"
        if chunk.time_N is not None:
            rows_N["time"] = chunk.time_N
        if chunk.order_N is not None:
            rows_N["order"] = chunk.order_N
        bucket_N = self._bucket_of(hash_N)
        rows_N = rows_N[np.argsort(bucket_N, kind="stable")]
        ends = np.cumsum(np.bincount(bucket_N, minlength=self.num_buckets))
        for bucket, piece_N in enumerate(np.split(rows_N, ends[:-1])):
            if len(piece_N):
                piece_N.tofile(self._row_sinks[bucket])
        self._add_users(hash_U, users.dictionary)

    def close(self) -> None:
        """Finishes writing; the buckets can be read after it."""
        for sink in (*self._row_sinks, *self._user_sinks):
            sink.close()

    def bucket(self, index: int) -> Bucket:
        """The interactions of bucket `index`."""
        rows_N = np.fromfile(self._rows[index], self._dtype)
        names = self._dtype.names or ()
        return Bucket(
            hash_N=rows_N["hash"],
            item_N=rows_N["item"],
            time_N=rows_N["time"] if "time" in names else None,
            order_N=rows_N["order"] if "order" in names else None,
            is_test_N=rows_N["is_test"],
        )

    def discard(self, index: int) -> None:
        """Removes the interactions of bucket `index` from the disk."""
        self._rows[index].unlink()

    def original_ids(self, index: int, wanted_U: Hashes) -> pa.Array:
        """The original ids of some users of bucket `index`, in the order of `wanted_U`.

        Raises:
            ValueError: two users of the bucket have the same hash.
        """
        with pa.ipc.open_stream(pa.memory_map(str(self._users[index]))) as reader:
            table = reader.read_all().combine_chunks()
        hash_N = table["hash"].to_numpy()
        hash_U, first_U, user_N = np.unique(hash_N, return_index=True, return_inverse=True)
        ids_N = table["id"].combine_chunks()
        ids_U = ids_N.take(pa.array(first_U))
        differs = pc.not_equal(ids_N, ids_U.take(pa.array(user_N)))
        if (index_of := pc.index(differs, True).as_py()) >= 0:
            raise ValueError(
                f"users {ids_N[index_of].as_py()!r} and {ids_U[int(user_N[index_of])].as_py()!r} "
                "have the same 64-bit hash; expected different hashes: rename one of these users"
            )
        return ids_U.take(pa.array(np.searchsorted(hash_U, wanted_U)))

    def _item_codes(self, items_N: pa.Array) -> npt.NDArray[np.int32]:
        items = items_N.dictionary_encode()
        code_I = np.empty(len(items.dictionary), np.int32)
        # This loop is over the distinct items of the chunk, which are fewer than its rows.
        for index, item in enumerate(items.dictionary.to_pylist()):
            code = self._code_of.setdefault(item, len(self.item_ids))
            if code == len(self.item_ids):
                self.item_ids.append(item)
            code_I[index] = code
        code_N: npt.NDArray[np.int32] = code_I[items.indices.to_numpy()]
        return code_N

    def _add_users(self, hash_U: Hashes, ids_U: pa.Array) -> None:
        order_U = np.argsort(hash_U)
        hash_U, ids_U = hash_U[order_U], ids_U.take(pa.array(order_U))
        batch = pa.record_batch([pa.array(hash_U), ids_U], schema=_USER_SCHEMA)
        bucket_U = self._bucket_of(hash_U)
        starts = np.searchsorted(bucket_U, np.arange(self.num_buckets + 1))
        for bucket in np.flatnonzero(np.diff(starts)):
            start, stop = int(starts[bucket]), int(starts[bucket + 1])
            self._user_sinks[bucket].write_batch(batch.slice(start, stop - start))

    def _bucket_of(self, hash_N: Hashes) -> npt.NDArray[np.uint16]:
        high_N = hash_N >> np.uint64(32)
        return ((high_N * np.uint64(self.num_buckets)) >> np.uint64(32)).astype(np.uint16)
