"""Recommends from an exported model, by the original ids of items. Nothing here imports torch."""

import math
import warnings
from bisect import bisect_right
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from skiprec.inference.columns import column_of_histories, known_and_unknown, lists_of
from skiprec.inference.native.library import MAX_K, Answer, NativeModel, level_of
from skiprec.inference.native.pack import RUN_ALL, pack_weights
from skiprec.inference.native.places import find_library
from skiprec.inference.reference import ReferenceModel
from skiprec.inference.saved_model import CurvePoint, SavedModel, read_saved_model

Id = str | int
Histories = Iterable[Iterable[Id]]  # lists, or an Arrow column of lists
Executor = Literal["native", "native_bf16", "numpy"]
# The self-test's scores may differ by this much of the largest score: sums in another order, and
# the rounding of bf16.
TOLERANCE, TOLERANCE_BF16 = 1e-4, 0.05


@dataclass(frozen=True, slots=True)
class PartTimes:
    """Where the time of a call went, in milliseconds, summed over its threads and all its rows."""

    policy: float
    blocks: float
    head: float


@dataclass(frozen=True, slots=True)
class Recommendation:
    """The list of one history.

    Args:
        items: original ids, best first; fewer than asked where no more are allowed.
        scores: of the items. Of a list by popularity, the share of the training interactions.
        source: `popularity` for a history without a known item, else `model`.
        unknown: ids of the history that the model does not know; they are passed over.
        read: number of items that the model read: the newest ones, up to its window.
        kept_blocks: indices of the blocks that ran; None unless asked for.
        part_ms: of the call that this row was in; None unless asked for.
    """

    items: list[str]
    scores: list[float]
    source: Literal["model", "popularity"]
    unknown: list[str]
    read: int
    kept_blocks: list[int] | None
    part_ms: PartTimes | None = None


class Recommender:
    """An exported model that answers requests. Threads may share it.

    Args:
        model: from `read_saved_model`.
        threads: number of threads of one call; a call of few rows uses fewer.
        executor: `native` is the C++ library and `numpy` the slow reference; `native_bf16` is the
            library with the products of blocks in bf16, for processors that have them: faster, and
            lists differ. None: the library, or with a warning the reference where there is none.

    Raises:
        FileNotFoundError: the library is asked for and not there.
        ValueError: the executor does not give the answers that the model was exported with, or
            this processor does not multiply in bf16.
    """

    def __init__(
        self,
        model: SavedModel,
        threads: int = 1,
        executor: Executor | None = None,
    ):
        self.spec, self.ids, self.names = model.spec, model.ids, model.names
        self._threads = threads
        self._number_of = {name: number for number, name in enumerate(model.ids, start=1)}
        self._id_array = pa.array(model.ids, pa.string())
        self._popular_V = np.argsort(-model.count_V, kind="stable")
        share_V = model.count_V / max(1, model.count_V.sum())
        self._share_V = share_V.astype(np.float32)
        self._curve = sorted(self.spec.curve, key=lambda point: point.keep)
        self._keep_of_point = [point.keep for point in self._curve]
        blocks = self.spec.shape["blocks"]
        # By depth, the decision to run the first blocks, as a batch of one row.
        self._first_1L = [np.arange(blocks)[None] < depth for depth in range(blocks + 1)]
        if executor is None:
            executor = "native" if find_library() else "numpy"
            if executor == "numpy":
                warnings.warn(
                    "the native executor is not built in this environment, so NumPy answers, "
                    "an order of magnitude slower; `make install` builds it where there is a C++ "
                    "compiler",
                    stacklevel=2,
                )
        self.executor: Executor = executor
        try:
            self._model = _model_of(model, executor)
        except KeyError as error:
            raise ValueError(
                f"the weights of model {self.spec.name!r} lack {error}, which its shape asks for; "
                "export the model again"
            ) from error
        self._check(model.self_test)

    @classmethod
    def load(
        cls,
        folder: str | Path,
        threads: int = 1,
        executor: Executor | None = None,
    ) -> Self:
        """The recommender of an exported model; see the class for the other arguments.

        Raises:
            ValueError: no model in this folder, another format version, or a damaged file.
        """
        return cls(read_saved_model(Path(folder)), threads, executor)

    def recommend(
        self,
        histories: Histories,
        k: int = 20,
        exclude_seen: bool = True,
        allow: Iterable[Id] | None = None,
        deny: Iterable[Id] | None = None,
        keep: float | None = None,
        explain: bool = False,
    ) -> list[Recommendation]:
        """The best items for each history.

        Args:
            histories: original ids, oldest first: lists of text or whole numbers, or an Arrow
                column of lists.
            k: number of items in each list.
            exclude_seen: whether items of the history are left out.
            allow: the only items that may be recommended; if the model knows none of them, lists
                are empty. None: all.
            deny: items that are never recommended.
            keep: the share of blocks that may run on average, from 0 to 1. The policy chooses for
                whom; without a policy all rows leave at one exit. No share is below that of the
                first exit. None: as it was trained.
            explain: whether the answer names the blocks that ran and the time of each part.

        Raises:
            ValueError: a history, an id, `k` or `keep` is not what it should be.
        """
        known, unknown = self._numbers_of(histories)
        allowed_V = self._allowed(allow, deny)
        item_N = np.concatenate([np.empty(0, np.int32), *known])
        end_B = np.cumsum([len(one) for one in known], dtype=np.int64)
        answer = self._ask(item_N, end_B, k, exclude_seen, allowed_V, keep)
        window = self.spec.shape["window"]
        parts = PartTimes(*(1000 * answer.seconds_P).tolist()) if explain else None
        results = []
        for row, history in enumerate(known):
            kept = np.flatnonzero(answer.keep_BL[row]).tolist() if explain else None
            if not len(history):
                items, scores = self._popular(k, allowed_V)
                kept = [] if explain else None
                results.append(
                    Recommendation(items, scores, "popularity", unknown[row], 0, kept, parts)
                )
                continue
            numbers = answer.items_BK[row].tolist()
            items = [self.ids[number - 1] for number in numbers if number]
            scores = answer.scores_BK[row, : len(items)].tolist()
            read = min(len(history), window)
            results.append(Recommendation(items, scores, "model", unknown[row], read, kept, parts))
        return results

    def recommend_table(
        self,
        histories: Histories,
        k: int = 20,
        exclude_seen: bool = True,
        allow: Iterable[Id] | None = None,
        deny: Iterable[Id] | None = None,
        keep: float | None = None,
        explain: bool = False,
    ) -> pa.Table:
        """As `recommend`, with one row for each history and the fields of `Recommendation`.

        It is faster for many histories, because no Python object is made of an item.
        """
        column = column_of_histories(histories)
        item_N, end_B, unknown = known_and_unknown(column, self._id_array)
        allowed_V = self._allowed(allow, deny)
        answer = self._ask(item_N, end_B, k, exclude_seen, allowed_V, keep)
        length_B = np.diff(end_B, prepend=0)
        is_popular_B = length_B == 0
        best_N = self._most_popular(k, allowed_V)
        number_BK, score_BK = answer.items_BK, answer.scores_BK
        number_BK[is_popular_B] = 0
        number_BK[is_popular_B, : len(best_N)] = best_N + 1
        score_BK[is_popular_B, : len(best_N)] = self._share_V[best_N]
        is_item_BK = number_BK > 0
        items = self._id_array.take(pa.array(number_BK[is_item_BK] - 1))
        scores = pa.array(score_BK[is_item_BK])
        kept_BL = answer.keep_BL & ~is_popular_B[:, None]
        kept = pa.array(np.nonzero(kept_BL)[1].astype(np.int32))
        return pa.table(
            {
                "items": lists_of(items, is_item_BK.sum(1)),
                "scores": lists_of(scores, is_item_BK.sum(1)),
                "source": pa.array(np.where(is_popular_B, "popularity", "model"), pa.string()),
                "unknown": unknown,
                "read": pa.array(np.minimum(length_B, self.spec.shape["window"]), pa.int32()),
                "kept_blocks": lists_of(kept, kept_BL.sum(1))
                if explain
                else pa.nulls(len(end_B), pa.list_(pa.int32())),
            }
        )

    def _ask(
        self,
        item_N: NDArray[np.int32],
        end_B: NDArray[np.int64],
        k: int,
        exclude_seen: bool,
        allowed_V: NDArray[np.bool_] | None,
        keep: float | None,
    ) -> Answer:
        if not 1 <= k <= MAX_K:
            raise ValueError(f"expected k from 1 to {MAX_K}, got {k}")
        keep_BL, setting = self._decisions(keep, len(end_B))
        return self._model.recommend(
            item_N, end_B, k, exclude_seen, keep_BL, setting, allowed_V, self._threads
        )

    def _numbers_of(self, histories: Histories) -> tuple[list[NDArray[np.int32]], list[list[str]]]:
        """The numbers of the known items of each history, and the ids of the unknown ones."""
        if isinstance(histories, pa.Array | pa.ChunkedArray):
            histories = histories.to_pylist()
        known: list[NDArray[np.int32]] = []
        unknown: list[list[str]] = []
        for row, history in enumerate(histories):
            if isinstance(history, str) or not isinstance(history, Iterable):
                raise ValueError(
                    f"history {row} is {history!r}; expected a list of item ids: a single history "
                    "needs a list around it"
                )
            names = [_name(item, row) for item in history]
            numbers = [self._number_of.get(name, 0) for name in names]
            known.append(np.array([number for number in numbers if number], np.int32))
            pairs = zip(names, numbers, strict=True)
            unknown.append([name for name, number in pairs if not number])
        return known, unknown

    def _allowed(
        self, allow: Iterable[Id] | None, deny: Iterable[Id] | None
    ) -> NDArray[np.bool_] | None:
        if allow is None and deny is None:
            return None
        allowed_V = np.full(len(self.ids), allow is None)
        for items, value in ((allow, True), (deny, False)):
            numbers = [self._number_of.get(_name(item, None), 0) for item in items or ()]
            allowed_V[[number - 1 for number in numbers if number]] = value
        return allowed_V

    def _decisions(self, keep: float | None, rows: int) -> tuple[NDArray[np.bool_] | None, float]:
        """`(keep_BL, setting)`: given decisions, or None and the setting of the policy's rule."""
        spec = self.spec
        if keep is not None and not 0 <= keep <= 1:
            raise ValueError(f"expected keep from 0 to 1, a share of the blocks, got {keep}")
        chooses_nothing = spec.shape["rule"] == RUN_ALL
        if keep == 1:
            return None if chooses_nothing else _repeated(self._first_1L[-1], rows), 0.0
        if keep is None and spec.constant_keep:
            return np.tile(np.array(spec.constant_keep), (rows, 1)), 0.0
        if keep is None:
            return None, spec.setting
        if not self._curve:
            raise ValueError(
                f"keep={keep} needs a learned policy or exits, and this model has neither (policy "
                f"{spec.policy!r}); leave keep out"
            )
        point = self._point_of(keep)
        if chooses_nothing:  # the points are exits, and a setting is a depth
            return _repeated(self._first_1L[math.ceil(point.setting)], rows), 0.0
        return None, point.setting

    def share_of(self, keep: float | None) -> float | None:
        """The share of blocks that run on average over validation rows if `keep` is asked for.

        It is that of the next point of the curve below, or of the lowest. None: as it was trained.
        """
        return keep if keep is None or keep == 1 else self._point_of(keep).keep

    def _point_of(self, keep: float) -> CurvePoint:
        return self._curve[max(0, bisect_right(self._keep_of_point, keep) - 1)]

    def _popular(
        self, k: int, allowed_V: NDArray[np.bool_] | None
    ) -> tuple[list[str], list[float]]:
        best_N = self._most_popular(k, allowed_V)
        return [self.ids[item] for item in best_N], self._share_V[best_N].tolist()

    def _most_popular(self, k: int, allowed_V: NDArray[np.bool_] | None) -> NDArray[np.int64]:
        """Indices of the most frequent items that are allowed."""
        place_N = self._popular_V
        return (place_N if allowed_V is None else place_N[allowed_V[place_N]])[:k]

    def _check(self, self_test: list[dict[str, Any]]) -> None:
        """Raises ValueError if the executor does not reproduce the exported answers."""
        tolerance = TOLERANCE_BF16 if self.executor == "native_bf16" else TOLERANCE
        given = [case["history"] for case in self_test]
        answers = self.recommend(given, k=10, explain=True)
        for case, answer in zip(self_test, answers, strict=True):
            if self.executor == "native_bf16" and answer.kept_blocks != case["kept_blocks"]:
                continue  # a near tie: what the policy reads was computed in bf16, too
            scale = max(map(abs, case["scores"]), default=1.0) or 1.0
            close = all(
                math.isclose(a, b, abs_tol=tolerance * scale)
                for a, b in zip(case["scores"], answer.scores, strict=False)
            )
            if not close or len(case["scores"]) != len(answer.scores):
                raise ValueError(
                    f"the {self.executor} executor does not reproduce the exported answers: "
                    f"expected the scores {case['scores'][:3]}…, got {answer.scores[:3]}…; export "
                    "the model again, and report this"
                )


def _model_of(model: SavedModel, executor: Executor) -> NativeModel | ReferenceModel:
    if executor == "numpy":
        return ReferenceModel(model.spec, model.weights)
    shape, level = model.spec.native_shape, level_of(executor)
    return NativeModel(shape, model.spec.lists, pack_weights(model.weights, shape), level)


def _repeated(keep_1L: NDArray[np.bool_], rows: int) -> NDArray[np.bool_]:
    return keep_1L if rows == 1 else np.repeat(keep_1L, rows, 0)


def _name(item: Any, row: int | None) -> str:
    if isinstance(item, str):
        return item
    if isinstance(item, int | np.integer) and not isinstance(item, bool):
        return str(item)
    where = "allow or deny" if row is None else f"history {row}"
    raise ValueError(f"{where} holds {item!r}; expected ids as text or as whole numbers")
