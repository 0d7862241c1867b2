"""Two exported models on the same new rows: which one is the better, and by how much.

The models may know different items. A target that a model does not know is a miss of that model,
because in service it would be one.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from skiprec.data.schema import ITEMS_NAME
from skiprec.data.shards import ShardSet
from skiprec.evaluation.measure.intervals import Interval, UserBootstrap, interval
from skiprec.inference.columns import lists_of
from skiprec.inference.recommender import Executor, Recommender

CUT = 20
ROWS_AT_ONCE = 4096

Floats = NDArray[np.float64]
Longs = NDArray[np.int64]


@dataclass(frozen=True)
class OneModel:
    """A model on the rows.

    Args:
        name: its folder.
        unknown_targets: share of the rows whose target the model does not know; they are misses.
        unknown_items: share of the items of histories that it does not know.
        mean_blocks: blocks that ran for a row.
    """

    name: str
    mrr_at_20: float
    hr_at_20: float
    unknown_targets: float
    unknown_items: float
    mean_blocks: float


@dataclass(frozen=True)
class Comparison:
    """Two models on the same rows.

    Args:
        difference: MRR@20 of the second less the first, with its 95 % interval over users.
        known_to_both: the same over the rows whose target both know; None without such rows.
    """

    rows: int
    users: int
    first: OneModel
    second: OneModel
    difference: float
    interval: Interval
    known_to_both: float | None
    rows_known_to_both: int

    def is_worse(self, margin: float) -> bool:
        """Whether the second model is surely worse by more than a margin of MRR@20."""
        return self.interval[1] < -margin

    def to_json(self) -> dict[str, Any]:
        """All numbers."""
        return asdict(self)


def compare_models(
    folders: tuple[Path, Path],
    data: Path,
    split: str,
    progress: Callable[[str], None],
    exclude_seen: bool = False,
    executor: Executor | None = None,
) -> Comparison:
    """Both models on the rows of a split; the last item of a row is the target.

    Raises:
        ValueError: a model or the data cannot be read, or the split has no rows.
    """
    models = [Recommender.load(folder, executor=executor) for folder in folders]
    shards = ShardSet.open(data, split)
    if not shards.num_rows:
        raise ValueError(f"split {split!r} of {data} has no rows; choose another")
    rows = shards.slice(0, shards.num_rows)
    with pa.memory_map(str(data / ITEMS_NAME)) as mapped:
        ids = pa.ipc.open_file(mapped).read_all()["original_id"].combine_chunks()
    found = [_Found(model, ids) for model in models]
    for start in range(0, shards.num_rows, ROWS_AT_ONCE):
        part_RW = rows.items_RW[start : start + ROWS_AT_ONCE]
        for one in found:
            one.add(part_RW, exclude_seen)
        progress(f"ranked {min(start + ROWS_AT_ONCE, shards.num_rows):,} of {shards.num_rows:,}")
    gains = [one.gain_R for one in found]
    bootstrap = UserBootstrap(rows.user_R)
    resampled = bootstrap.resampled_means(np.stack(gains, axis=1))
    both_R = found[0].knows_R & found[1].knows_R
    known = float((gains[1] - gains[0])[both_R].mean()) if both_R.any() else None
    pairs = zip(found, folders, strict=True)
    first, second = (one.summary(str(folder)) for one, folder in pairs)
    return Comparison(
        shards.num_rows,
        bootstrap.num_users,
        first,
        second,
        float((gains[1] - gains[0]).mean()),
        interval(resampled[:, 1] - resampled[:, 0]),
        known,
        int(both_R.sum()),
    )


class _Found:
    """What one model has found in the rows so far."""

    def __init__(self, model: Recommender, ids: pa.Array):
        self.model, self.ids = model, ids
        is_known = pc.is_in(ids, pa.array(model.ids, pa.string()))
        self.is_known_V = is_known.to_numpy(zero_copy_only=False)
        self._ranks: list[Longs] = []
        self._knows: list[NDArray[np.bool_]] = []
        self._items = self._unknown = self._blocks = 0

    def add(self, items_RW: NDArray[np.int32], exclude_seen: bool) -> None:
        """Answers some rows."""
        history_RT, target_R = items_RW[:, :-1], items_RW[:, -1] - 1
        is_item_RT = history_RT > 0
        flat_N = history_RT[is_item_RT] - 1
        histories = lists_of(self.ids.take(pa.array(flat_N)), is_item_RT.sum(1))
        table = self.model.recommend_table(
            histories, k=CUT, exclude_seen=exclude_seen, explain=True
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

    def summary(self, name: str) -> OneModel:
        """The numbers of all rows."""
        gain_R = self.gain_R
        return OneModel(
            name,
            float(gain_R.mean()),
            float((gain_R > 0).mean()),
            float(1 - self.knows_R.mean()),
            self._unknown / max(1, self._items),
            self._blocks / len(gain_R),
        )


def _ranks(items: pa.ChunkedArray, targets: pa.Array) -> Longs:
    """The place of each row's target in its list, from 1; 0 if it is not there."""
    lists = items.combine_chunks()
    row_N = pc.list_parent_indices(lists)
    place_N = np.arange(len(row_N)) - lists.offsets.to_numpy()[:-1][row_N.to_numpy()]
    hit_N = pc.equal(lists.flatten(), targets.take(row_N)).to_numpy(zero_copy_only=False)
    rank_R = np.zeros(len(targets), np.int64)
    rank_R[row_N.to_numpy()[hit_N]] = place_N[hit_N] + 1
    return rank_R
