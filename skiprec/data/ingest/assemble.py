"""The last step of a build: numbers the items, splits, cuts rows, writes shards and tables."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from skiprec.data.ingest.histories import Histories, by_frequency
from skiprec.data.ingest.profiling import Profiler
from skiprec.data.ingest.recipe import Recipe, SyntheticSource
from skiprec.data.ingest.synthetic import kind_of_user
from skiprec.data.manifest import FileInfo, SplitInfo
from skiprec.data.profile import Profile
from skiprec.data.schema import ITEMS_NAME, SPLIT_NAMES, USERS_NAME, item_schema, user_schema
from skiprec.data.shards import ShardWriter, TableWriter
from skiprec.data.splits import Lengths, plan_splits
from skiprec.data.windows import gather_rows

Longs = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Written:
    """Descriptions of the files that an `Assembler` wrote."""

    splits: dict[str, SplitInfo]
    items: FileInfo
    users: FileInfo
    profile: Profile


class Assembler:
    """Writes the files of a dataset from the histories of all users, in the order of their hash."""

    def __init__(
        self,
        recipe: Recipe,
        folder: Path,
        item_ids: list[str],
        count_I: Longs,
        cut_offs: tuple[int, int] | None,
        names: Mapping[str, str] | None = None,
    ) -> None:
        self._names = names
        self._recipe = recipe
        self._folder = folder
        self._cut_offs = cut_offs  # of the split by_time, in milliseconds since 1970
        code_V = by_frequency(count_I, item_ids)
        code_V = code_V[count_I[code_V] > 0]
        self.num_items = len(code_V)
        self.num_users = 0
        self.leftover_interactions = 0
        self.users_without_evaluation = 0
        self._original_ids = [item_ids[code] for code in code_V]
        self._count_V = count_I[code_V]
        self._train_count = np.zeros(self.num_items + 1, np.int64)
        self._item_of_code = np.zeros(len(item_ids), np.int32)
        self._item_of_code[code_V] = np.arange(1, self.num_items + 1)
        self._profiler = Profiler(self.num_items)
        self._shards = {
            split: ShardWriter(folder, split, recipe.window, has_times=recipe.times)
            for split in SPLIT_NAMES
        }
        extra = ("kind",) if isinstance(recipe.source, SyntheticSource) else ()
        self._user_schema = user_schema(extra)
        self._users = TableWriter(folder / USERS_NAME, self._user_schema)

    def add(self, histories: Histories, original_ids: pa.Array) -> None:
        """Writes the rows of some users and their lines of users.arrow.

        Args:
            original_ids: of these users, in the order of `histories.hash_U`.
        """
        recipe, length_U = self._recipe, histories.length_U
        plan = plan_splits(
            recipe.split,
            histories.hash_U,
            self._lengths(histories),
            recipe.window,
            recipe.min_items,
        )
        item_N = self._item_of_code[histories.item_N]
        start_U = np.cumsum(length_U) - length_U
        for split, rows in plan.rows.items():
            items_RW = gather_rows(item_N, start_U, rows, recipe.window)
            user_R = (self.num_users + rows.user_R).astype(np.int32)
            times_RW = None
            if recipe.times and histories.ms_N is not None:
                times_RW = gather_rows(histories.ms_N, start_U, rows, recipe.window)
            self._shards[split].append(user_R, rows.end_R.astype(np.int32), items_RW, times_RW)
            if split == "train":
                self._train_count += np.bincount(items_RW.ravel(), minlength=self.num_items + 1)
        self._profiler.add(item_N, histories.ms_N, length_U, plan.rows, recipe.window)
        user_U = np.arange(self.num_users, self.num_users + len(length_U), dtype=np.int32)
        columns = [pa.array(user_U), original_ids, pa.array(length_U.astype(np.int32))]
        if isinstance(recipe.source, SyntheticSource):
            columns.append(kind_of_user(original_ids))
        self._users.append(pa.record_batch(columns, schema=self._user_schema))
        self.num_users += len(length_U)
        self.leftover_interactions += plan.leftover_interactions
        self.users_without_evaluation += plan.users_without_evaluation

    def _lengths(self, histories: Histories) -> Lengths:
        length_U = histories.length_U
        before = [np.zeros_like(length_U)] * 2
        if self._cut_offs is not None and histories.ms_N is not None:
            user_N = np.repeat(np.arange(len(length_U)), length_U)
            before = [
                np.bincount(user_N[histories.ms_N < cut_off], minlength=len(length_U))
                for cut_off in self._cut_offs
            ]
        return Lengths(length_U, histories.test_length_U, *before)

    def close(self) -> Written:
        """Finishes all files and describes them.

        Raises:
            ValueError: the train split has no rows.
        """
        splits = {split: shards.close() for split, shards in self._shards.items()}
        users = self._users.close()
        if not splits["train"].rows:
            raise ValueError(
                f"split 'train' of {self._recipe.name} has no rows: {self.num_users} users gave "
                + ", ".join(f"{info.rows} {split}" for split, info in splits.items())
                + " rows; expected at least one row to train on: give more users or other fractions"
            )
        columns = [
            pa.array(np.arange(1, self.num_items + 1, dtype=np.int32)),
            pa.array(self._original_ids, pa.string()),
            pa.array(self._count_V),
            pa.array(self._train_count[1:]),
        ]
        if self._names is not None:
            names = [self._names.get(item) for item in self._original_ids]
            columns.append(pa.array(names, pa.string()))
        schema = item_schema(has_names=self._names is not None)
        items = TableWriter(self._folder / ITEMS_NAME, schema)
        items.append(pa.record_batch(columns, schema=schema))
        profile = self._profiler.close(self._train_count, self._cut_offs)
        return Written(splits, items.close(), users, profile)
