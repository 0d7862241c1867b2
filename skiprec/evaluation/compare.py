"""Two exported models on the same new rows: which one is the better, and by how much.

The models may know different items. A target that a model does not know is a miss of that model,
because in service it would be one.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from skiprec.data.shards import ShardSet
from skiprec.evaluation.answers import Answers, original_ids
from skiprec.evaluation.measure.intervals import Interval, UserBootstrap, interval
from skiprec.inference.recommender import Executor, Recommender

ROWS_AT_ONCE = 4096


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
    ids = original_ids(data)
    found = [Answers(model, ids) for model in models]
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
    first, second = (_summary(one, str(folder)) for one, folder in pairs)
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


def _summary(found: Answers, name: str) -> OneModel:
    """The numbers of all rows."""
    gain_R = found.gain_R
    return OneModel(
        name,
        float(gain_R.mean()),
        float((gain_R > 0).mean()),
        float(1 - found.knows_R.mean()),
        found.unknown_items,
        found.mean_blocks,
    )
