"""Weights of another catalogue: rows of items are matched by original id.

A run that begins with the backbone of another day (`init_from`) may have new items, and items of
that day may be gone. Item vectors that both have are copied, those that are gone are dropped, and
new ones keep their random first values or become the mean of their neighbours'.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torch import Tensor

from skiprec.data.schema import ITEMS_NAME
from skiprec.data.shards import ShardSet

Longs = NDArray[np.int64]
ROWS_AT_ONCE = 1 << 16
# The tables of a backbone with a row for each item, and the rows before that of the first item.
ITEM_TABLES = {"embedding.table.weight": 1, "head.weight_VD": 0, "head.bias_V": 0}


@dataclass(frozen=True)
class ItemMatch:
    """How the items of a catalogue relate to those of an older one; indices count from 0.

    Args:
        kept: items that both have, and `kept_old` their indices in the older one.
        added: items that the older one does not have.
        gone: number of items that only the older one has.
        untrained: number of the added items that are in no training row, so that they stay random.
    """

    kept: Longs
    kept_old: Longs
    added: Longs
    gone: int
    untrained: int = 0

    @property
    def counts(self) -> dict[str, int]:
        """The numbers of items, for reports."""
        counts = {"kept": len(self.kept), "new": len(self.added), "gone": self.gone}
        return counts | {"untrained": self.untrained}

    @property
    def text(self) -> str:
        """The numbers of items, for people."""
        text = f"{len(self.kept):,} kept, {len(self.added):,} new, {self.gone:,} gone"
        if self.untrained:
            text += (
                f"; {self.untrained:,} of the new ones are in no training row, so nothing is "
                "learned of them (later cut-offs of the split train on them)"
            )
        return text


@dataclass(frozen=True)
class Neighbours:
    """How often new items stand beside items that are kept, in the training rows.

    Args:
        item: indices of new items, and `beside` those of kept ones in the new catalogue.
        count: how often each pair is found.
    """

    item: Longs
    beside: Longs
    count: Longs


def read_item_ids(folder: Path) -> list[str]:
    """The original ids in the items.arrow of a dataset or a run, in the order of the item ids.

    Raises:
        FileNotFoundError: there is no such file.
    """
    with pa.memory_map(str(folder / ITEMS_NAME)) as mapped:
        ids: list[str] = pa.ipc.open_file(mapped).read_all()["original_id"].to_pylist()
    return ids


def read_train_counts(data: Path) -> Longs:
    """`[V]`: how often each item of a dataset is in its training rows."""
    with pa.memory_map(str(data / ITEMS_NAME)) as mapped:
        counts = pa.ipc.open_file(mapped).read_all()["train_count"]
    return np.asarray(counts.to_numpy(), np.int64)


def match_items(
    new_ids: list[str], old_ids: list[str], train_count_V: Longs | None = None
) -> ItemMatch:
    """The match of two catalogues by original id.

    Args:
        train_count_V: how often each new id is in the training rows; None: all of them are.
    """
    old_of = {item: index for index, item in enumerate(old_ids)}
    old_V = np.array([old_of.get(item, -1) for item in new_ids], np.int64)
    kept = np.flatnonzero(old_V >= 0)
    added = np.flatnonzero(old_V < 0)
    untrained = 0 if train_count_V is None else int((train_count_V[added] == 0).sum())
    return ItemMatch(kept, old_V[kept], added, len(old_ids) - len(kept), untrained)


def find_neighbours(shards: ShardSet, match: ItemMatch) -> Neighbours:
    """The kept items directly before and after new items in the rows of a split."""
    is_kept_V = np.zeros(shards.num_items, np.bool_)
    is_kept_V[match.kept] = True
    item, beside, count = (np.empty(0, np.int64) for _ in range(3))
    for left, right in _pairs(shards):
        for one, other in ((left, right), (right, left)):
            wanted = ~is_kept_V[one] & is_kept_V[other]
            item = np.concatenate([item, one[wanted]])
            beside = np.concatenate([beside, other[wanted]])
            count = np.concatenate([count, np.ones(wanted.sum(), np.int64)])
        item, beside, count = _summed(item, beside, count, shards.num_items)
    return Neighbours(item, beside, count)


def moved(
    old: dict[str, Tensor],
    fresh: dict[str, Tensor],
    match: ItemMatch,
    neighbours: Neighbours | None = None,
) -> dict[str, Tensor]:
    """`old` with the item tables of the new catalogue.

    Args:
        old: the weights of the older backbone.
        fresh: the random first weights of the new one.
        neighbours: new items become the mean of these. None, or for a new item without any: its
            random values stay.
    """
    weights = dict(old)
    for name, offset in ITEM_TABLES.items():
        if name not in old or name not in fresh:
            continue
        table = fresh[name].clone()
        kept, kept_old = (torch.from_numpy(index) for index in (match.kept, match.kept_old))
        table[offset + kept] = old[name][offset + kept_old].to(table.dtype)
        if neighbours is not None and len(neighbours.item):
            _set_means(table[offset:], neighbours)
        weights[name] = table
    return weights


def _set_means(table_V: Tensor, neighbours: Neighbours) -> None:
    item_P, beside_P = (torch.from_numpy(index) for index in (neighbours.item, neighbours.beside))
    count_P = torch.from_numpy(neighbours.count).to(table_V.dtype)
    weights_P = count_P.view(-1, *[1] * (table_V.dim() - 1))
    sums_V = torch.zeros_like(table_V).index_add_(0, item_P, weights_P * table_V[beside_P])
    totals_V = torch.zeros(len(table_V), dtype=table_V.dtype).index_add_(0, item_P, count_P)
    found = torch.from_numpy(np.unique(neighbours.item))
    table_V[found] = sums_V[found] / totals_V[found].view(-1, *[1] * (table_V.dim() - 1))


def _pairs(shards: ShardSet) -> Iterator[tuple[Longs, Longs]]:
    """Items directly one after the other, as indices; some rows at a time."""
    for start in range(0, shards.num_rows, ROWS_AT_ONCE):
        items_RW = shards.slice(start, min(start + ROWS_AT_ONCE, shards.num_rows)).items_RW
        left, right = items_RW[:, :-1].ravel(), items_RW[:, 1:].ravel()
        are_items = (left > 0) & (right > 0)
        yield left[are_items].astype(np.int64) - 1, right[are_items].astype(np.int64) - 1


def _summed(item: Longs, beside: Longs, count: Longs, num_items: int) -> tuple[Longs, Longs, Longs]:
    """Equal pairs as one, with the sum of their counts."""
    code, place = np.unique(item * num_items + beside, return_inverse=True)
    total = np.bincount(place, count, len(code)).astype(np.int64)
    return code // num_items, code % num_items, total
