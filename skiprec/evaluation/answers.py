"""What an exported model recommends for the rows of a dataset, and where the targets stand."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from skiprec.data.schema import ITEMS_NAME
from skiprec.inference.columns import lists_of
from skiprec.inference.recommender import Recommender

CUT = 20

Floats = NDArray[np.float64]
Longs = NDArray[np.int64]


def original_ids(data: Path) -> pa.Array:
    """The original id of each item of a dataset; entry v is item v + 1."""
    with pa.memory_map(str(data / ITEMS_NAME)) as mapped:
        return pa.ipc.open_file(mapped).read_all()["original_id"].combine_chunks()


def histories_of(items_RW: NDArray[np.int32], ids: pa.Array) -> pa.Array:
    """A column of lists: the original ids of all items of each row but the last, its target."""
    history_RT = items_RW[:, :-1]
    is_item_RT = history_RT > 0
    return lists_of(ids.take(pa.array(history_RT[is_item_RT] - 1)), is_item_RT.sum(1))


class Answers:
    """What one model has found in the rows so far.

    Args:
        ids: of the dataset that the rows come from.
        keep: as of `Recommender.recommend`.
    """

    def __init__(self, model: Recommender, ids: pa.Array, keep: float | None = None):
        self.model, self.ids, self.keep = model, ids, keep
        is_known = pc.is_in(ids, pa.array(model.ids, pa.string()))
        self.is_known_V = is_known.to_numpy(zero_copy_only=False)
        self._ranks: list[Longs] = []
        self._knows: list[NDArray[np.bool_]] = []
        self._items = self._unknown = self._blocks = 0

    def add(self, items_RW: NDArray[np.int32], exclude_seen: bool) -> None:
        """Answers some rows."""
        history_RT, target_R = items_RW[:, :-1], items_RW[:, -1] - 1
        flat_N = history_RT[history_RT > 0] - 1
        histories = histories_of(items_RW, self.ids)
        table = self.model.recommend_table(
            histories, k=CUT, exclude_seen=exclude_seen, keep=self.keep, explain=True
        )
        self._ranks.append(_ranks(table["items"], self.ids.take(pa.array(target_R))))
        self._knows.append(self.is_known_V[target_R])
        self._items += len(flat_N)
        self._unknown += int((~self.is_known_V[flat_N]).sum())
        self._blocks += pc.sum(pc.list_value_length(table["kept_blocks"])).as_py() or 0

    @property
    def knows_R(self) -> NDArray[np.bool_]:
        """Whether the model knows the target of each row."""
        return np.concatenate(self._knows)

    @property
    def gain_R(self) -> Floats:
        """The reciprocal rank of each row's target; 0 if it is not in the list."""
        rank_R = np.concatenate(self._ranks)
        return np.where(rank_R > 0, 1 / np.maximum(rank_R, 1), 0.0)

    @property
    def unknown_items(self) -> float:
        """The share of the items of histories that the model does not know."""
        return self._unknown / max(1, self._items)

    @property
    def mean_blocks(self) -> float:
        """Blocks that ran for a row."""
        return self._blocks / len(self.knows_R)


def _ranks(items: pa.ChunkedArray, targets: pa.Array) -> Longs:
    """The place of each row's target in its list, from 1; 0 if it is not there."""
    lists = items.combine_chunks()
    row_N = pc.list_parent_indices(lists)
    place_N = np.arange(len(row_N)) - lists.offsets.to_numpy()[:-1][row_N.to_numpy()]
    hit_N = pc.equal(lists.flatten(), targets.take(row_N)).to_numpy(zero_copy_only=False)
    rank_R = np.zeros(len(targets), np.int64)
    rank_R[row_N.to_numpy()[hit_N]] = place_N[hit_N] + 1
    return rank_R
