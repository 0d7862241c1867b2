"""The items of a model for people: their names, and a search by the words of a name."""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from skiprec.inference.saved_model import SavedModel


@dataclass(frozen=True)
class FoundItem:
    """An item, and how often it occurs in the training rows."""

    id: str
    name: str | None
    count: int


class Catalogue:
    """The items of a model, the most frequent first."""

    def __init__(self, saved: SavedModel):
        order_V = pa.array(np.argsort(-saved.count_V, kind="stable"))
        self._ids = pa.array(saved.ids, pa.string()).take(order_V)
        self._names = pa.array(saved.names, pa.string()).take(order_V)
        self._counts = pa.array(saved.count_V).take(order_V)
        both = pc.binary_join_element_wise(self._ids, pc.fill_null(self._names, ""), " ")
        self._text = pc.utf8_lower(both)
        self._name_of = {
            item: name for item, name in zip(saved.ids, saved.names, strict=True) if name
        }

    def names_of(self, ids: list[str]) -> list[str | None]:
        """The name of each item; None where it has none."""
        return [self._name_of.get(item) for item in ids]

    def find(self, ids: list[str]) -> list[FoundItem]:
        """The items of these ids that the model knows."""
        is_given = pc.is_in(self._ids, pa.array(ids, pa.string()))
        return self._at(np.flatnonzero(is_given.to_numpy(zero_copy_only=False)))

    def search(self, query: str, limit: int) -> list[FoundItem]:
        """Items whose id or name has all words of the query, whatever their case."""
        has_all_V = np.ones(len(self._ids), np.bool_)
        for word in query.lower().split():
            has_all_V &= pc.match_substring(self._text, word).to_numpy(zero_copy_only=False)
        return self._at(np.flatnonzero(has_all_V)[:limit])

    def _at(self, place_N: NDArray[np.int64]) -> list[FoundItem]:
        place = pa.array(place_N)
        columns = (self._ids.take(place), self._names.take(place), self._counts.take(place))
        rows = zip(*(column.to_pylist() for column in columns), strict=True)
        return [FoundItem(*row) for row in rows]
