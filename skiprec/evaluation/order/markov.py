"""Back-off Markov models: the next item from the last k items, for every k up to a largest order.

The model of order k interpolates with that of order k - 1 (Witten and Bell, 1991):

    p_k(i | c) = (n(c, i) + t(c) * p_{k-1}(i)) / (n(c) + t(c))    for item i behind the context c

n counts occurrences in the training rows, t the distinct items that followed the context. A context
that training has not seen says nothing, so its order gives what the order below gives. Order 0 is
the frequency of the item, plus one. Items of equal probability rank by their ids, as everywhere
(`skiprec/ranking.py`).
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from skiprec.data.hashing import Hashes, mix

Bools = npt.NDArray[np.bool_]
Ints = npt.NDArray[np.int32]
Longs = npt.NDArray[np.int64]
Doubles = npt.NDArray[np.float64]

# Probabilities that differ by less than this share of them are equal but for rounding.
_ROUNDING = 1e-12
# Pairs of a context and an item that are collected before they are added up; it bounds the memory.
_PENDING = 4_000_000


@dataclass(frozen=True)
class Followers:
    """The items that followed each wanted context, in order of the context, then of the item."""

    context_C: Hashes  # ascending
    start_C: Longs
    stop_C: Longs
    item_P: Longs
    count_P: Longs

    def of(self, context: np.uint64) -> tuple[Longs, Longs]:
        """`(items, counts)` behind one context; both empty if training has not seen it."""
        place = int(np.searchsorted(self.context_C, context))
        pairs = slice(self.start_C[place], self.stop_C[place])
        return self.item_P[pairs], self.count_P[pairs]


class MarkovModel:
    """Counts of the training rows, for the contexts of some held-out rows alone.

    Args:
        inputs_RT: the held-out histories, left-padded with 0, without their targets.
    """

    def __init__(self, inputs_RT: Ints, num_items: int, max_order: int) -> None:
        self.max_order = max_order
        self.context_RK, self.is_whole_RK = _contexts_at_the_end(inputs_RT, max_order)
        self._num_items = num_items
        self._count_V = np.zeros(num_items + 1, np.int64)
        self._wanted = [
            np.unique(context_R[is_whole_R])
            for context_R, is_whole_R in zip(self.context_RK.T, self.is_whole_RK.T, strict=True)
        ]
        self._sums = [_PairSums() for _ in range(max_order)]

    def count(self, train: Iterable[Ints]) -> None:
        """Counts blocks of training rows, `[rows, window]`, left-padded with 0."""
        for items_RW in train:
            self._count_V += np.bincount(items_RW.ravel(), minlength=self._num_items + 1)
            for order, context_RT, is_whole_RT in contexts_before(items_RW, self.max_order):
                next_RT = items_RW[:, 1:]
                wanted_C, sums = self._wanted[order - 1], self._sums[order - 1]
                context_N = context_RT[is_whole_RT]
                if len(wanted_C):
                    place_N = np.searchsorted(wanted_C, context_N)
                    place_N[place_N == len(wanted_C)] = 0
                    is_wanted_N = wanted_C[place_N] == context_N
                    item_N = next_RT[is_whole_RT][is_wanted_N].astype(np.int64)
                    sums.add(place_N[is_wanted_N] * (self._num_items + 1) + item_N)

    def is_counted(self, item_R: Ints) -> Bools:
        """Whether the items are in the training rows that were counted."""
        return self._count_V[item_R] > 0

    def ranks(self, target_R: Ints) -> tuple[Longs, Doubles]:
        """`rank_RK` (from 1) and `nats_RK` of the targets, for the orders 0..max_order."""
        followers = [
            self._followers(wanted_C, sums)
            for wanted_C, sums in zip(self._wanted, self._sums, strict=True)
        ]
        count_V = self._count_V[1:] + 1.0
        prior_I = np.concatenate([[0.0], count_V / count_V.sum()])
        prior = _Prior(prior_I)
        rank_RK = np.zeros((len(target_R), self.max_order + 1), np.int64)
        nats_RK = np.zeros((len(target_R), self.max_order + 1))
        for row, target in enumerate(target_R.tolist()):
            contexts = [
                followers[order].of(self.context_RK[row, order])
                for order in range(self.max_order)
                if self.is_whole_RK[row, order]
            ]
            numbers = _rank_one(target, contexts, prior)
            for order in range(self.max_order + 1):
                rank_RK[row, order], nats_RK[row, order] = numbers[min(order, len(numbers) - 1)]
        return rank_RK, nats_RK

    def _followers(self, wanted_C: Hashes, sums: "_PairSums") -> Followers:
        pair_P, count_P = sums.close()
        context_P, item_P = np.divmod(pair_P, self._num_items + 1)
        places = np.arange(len(wanted_C))
        start_C = np.searchsorted(context_P, places, side="left")
        stop_C = np.searchsorted(context_P, places, side="right")
        return Followers(wanted_C, start_C, stop_C, item_P, count_P)


def contexts_before(items_RW: Ints, max_order: int) -> Iterable[tuple[int, Hashes, Bools]]:
    """For each order from 1: `context_RT`, the hash of the items before position 1, 2, …, and
    whether there are so many (`is_whole_RT`)."""
    num_rows, window = items_RW.shape
    context_RT = np.zeros((num_rows, window - 1), np.uint64)
    is_whole_RT = items_RW[:, 1:] > 0
    for order in range(1, max_order + 1):
        back_RT = np.zeros((num_rows, window - 1), np.int64)
        if order < window:
            back_RT[:, order - 1 :] = items_RW[:, : window - order]
        context_RT = mix(context_RT ^ mix(back_RT.astype(np.uint64)))
        is_whole_RT = is_whole_RT & (back_RT > 0)
        yield order, context_RT, is_whole_RT


def _contexts_at_the_end(inputs_RT: Ints, max_order: int) -> tuple[Hashes, Bools]:
    """`context_RK` and `is_whole_RK` of whole histories, for the orders 1..max_order."""
    some_target_R1 = np.ones((len(inputs_RT), 1), inputs_RT.dtype)
    rows_RW = np.concatenate([inputs_RT[:, -max_order:], some_target_R1], axis=1)
    found = list(contexts_before(rows_RW, max_order))
    context_RK = np.stack([context_RT[:, -1] for _, context_RT, _ in found], axis=1)
    return context_RK, np.stack([is_whole_RT[:, -1] for _, _, is_whole_RT in found], axis=1)


class _PairSums:
    """Counts of pairs, which are whole numbers; few of them are waiting to be added up."""

    def __init__(self) -> None:
        self._pair_P, self._count_P = np.zeros(0, np.int64), np.zeros(0, np.int64)
        self._waiting: list[Longs] = []

    def add(self, pair_N: Longs) -> None:
        self._waiting.append(pair_N)
        if sum(map(len, self._waiting)) > _PENDING:
            self._merge()

    def close(self) -> tuple[Longs, Longs]:
        """The distinct pairs in order, and how often each was added."""
        self._merge()
        return self._pair_P, self._count_P

    def _merge(self) -> None:
        new_P, count_P = np.unique(
            np.concatenate([np.zeros(0, np.int64), *self._waiting]), return_counts=True
        )
        self._waiting = []
        pair_P, inverse_P = np.unique(np.concatenate([self._pair_P, new_P]), return_inverse=True)
        counts = np.concatenate([self._count_P, count_P])
        self._count_P = np.bincount(inverse_P, counts, minlength=len(pair_P)).astype(np.int64)
        self._pair_P = pair_P


class _Prior:
    """Probabilities of all items at order 0, and the items in their order.

    Args:
        prior_I: by item id; id 0 is padding.
    """

    def __init__(self, prior_I: Doubles) -> None:
        self.prior_I = prior_I
        self._item_V = np.argsort(-prior_I[1:], kind="stable") + 1
        self._falling_V = -prior_I[self._item_V]

    def num_ahead(self, prior: float, item: int) -> int:
        """How many items have a larger prior, or this one and a smaller id than `item`."""
        first = int(np.searchsorted(self._falling_V, -prior * (1 + _ROUNDING)))
        last = int(np.searchsorted(self._falling_V, -prior * (1 - _ROUNDING), side="right"))
        return first + int(np.searchsorted(self._item_V[first:last], item))


def _is_ahead(value_F: Doubles, item_F: Longs, value: float, item: int) -> Bools:
    """Whether each value is larger, or equal with a smaller item id."""
    is_larger_F = value_F > value * (1 + _ROUNDING)
    is_equal_F = np.abs(value_F - value) <= value * _ROUNDING
    ahead_F: Bools = is_larger_F | (is_equal_F & (item_F < item))
    return ahead_F


def _rank_one(
    target: int, contexts: list[tuple[Longs, Longs]], order_0: _Prior
) -> list[tuple[int, float]]:
    """Rank and nats of a target at the orders 0, 1, … of its contexts.

    The items that follow a longer context also follow the shorter ones, so only the followers of
    the last item ever get another probability than a multiple of their prior.
    """
    prior = float(order_0.prior_I[target])
    numbers = [(1 + order_0.num_ahead(prior, target), -float(np.log(prior)))]
    item_F = contexts[0][0] if contexts else np.zeros(0, np.int64)
    prior_F = order_0.prior_I[item_F]
    p_F, scale = prior_F.copy(), 1.0
    place = int(np.searchsorted(item_F, target))
    is_follower = place < len(item_F) and item_F[place] == target
    for items, counts in contexts:
        if len(items):
            total, distinct = counts.sum(), len(items)
            p_F *= distinct / (total + distinct)
            scale *= distinct / (total + distinct)
            p_F[np.searchsorted(item_F, items)] += counts / (total + distinct)
        p = float(p_F[place]) if is_follower else scale * prior
        # Of all other items, those are ahead whose prior is above this.
        bar = p / scale if is_follower else prior
        others = order_0.num_ahead(bar, target) - int(_is_ahead(prior_F, item_F, bar, target).sum())
        ahead = int(_is_ahead(p_F, item_F, p, target).sum()) + others
        numbers.append((1 + ahead, -float(np.log(p))))
    return numbers
