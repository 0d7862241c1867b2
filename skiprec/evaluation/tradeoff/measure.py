"""The accuracy and the time of exported models, at every point that their knob reaches."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from skiprec.data.batching import evenly_spaced_rows
from skiprec.data.shards import ShardSet
from skiprec.evaluation.answers import CUT, Answers, Floats, histories_of, original_ids
from skiprec.inference.recommender import Executor, Recommender
from skiprec.keyed_random import mix, permutation

ROWS_AT_ONCE = 4096
WARM_UP_ROUNDS = 2
ORDER_SEED = 20261130


@dataclass(frozen=True)
class ModelPoint:
    """A model at one setting of its knob; `keep` is None for a model that has no knob."""

    model: str
    keep: float | None


@dataclass(frozen=True)
class Timing:
    """How times are taken: in rounds over all points, each with as many other histories.

    The rounds together have histories enough that a policy keeps as many blocks in them as in all
    rows.
    """

    histories: int = 256
    batch: int = 1
    rounds: int = 15


@dataclass(frozen=True)
class TradeoffMeasured:
    """Results of all points P on the same rows R.

    Args:
        gain_RP: the reciprocal rank of each row's target; 0 if it is not among the first 20.
        blocks_P: blocks that ran for a row, on average.
        ms_NP: milliseconds of a history, from ids to a list of 20, in each round.
    """

    points: list[ModelPoint]
    gain_RP: Floats
    blocks_P: Floats
    ms_NP: Floats
    user_R: NDArray[np.int32]
    executor: Executor


def measure_tradeoff(
    folders: list[Path],
    data: Path,
    split: str,
    max_rows: int | None,
    timing: Timing,
    progress: Callable[[str], None],
    executor: Executor | None = None,
) -> TradeoffMeasured:
    """All models at all points of their curves, on the rows of a split and on one thread.

    Raises:
        ValueError: a model or the data cannot be read, two models have one name, or no rows.
    """
    names = model_names(folders)
    models = [Recommender.load(folder, executor=executor) for folder in folders]
    shards = ShardSet.open(data, split)
    row_R = evenly_spaced_rows(shards.num_rows, max_rows)
    if not len(row_R):
        raise ValueError(f"split {split!r} of {data} has no rows; choose another")
    rows, ids = shards.take(row_R), original_ids(data)
    points = [
        (ModelPoint(name, keep), model)
        for name, model in zip(names, models, strict=True)
        for keep in points_of(model)
    ]
    found = []
    for number, (point, model) in enumerate(points, start=1):
        progress(f"point {number} of {len(points)}: {point.model}, {len(row_R):,} rows")
        answers = Answers(model, ids, point.keep)
        for start in range(0, len(row_R), ROWS_AT_ONCE):
            answers.add(rows.items_RW[start : start + ROWS_AT_ONCE], exclude_seen=False)
        found.append(answers)
    timed_R = evenly_spaced_rows(len(row_R), timing.histories * timing.rounds)
    histories = histories_of(rows.items_RW[timed_R], ids).to_pylist()
    return TradeoffMeasured(
        [point for point, _ in points],
        np.stack([answers.gain_R for answers in found], axis=1),
        np.array([answers.mean_blocks for answers in found]),
        _times(points, histories, timing, progress),
        rows.user_R,
        models[0].executor,
    )


def model_names(folders: list[Path]) -> list[str]:
    """A short name for each folder: its last part, or that of the run which holds `export`."""
    names = [folder.parent.name if folder.name == "export" else folder.name for folder in folders]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"expected models of different names, got {twice[0]!r} twice")
    return names


def points_of(model: Recommender) -> list[float | None]:
    """The values of `keep` at which a model answers differently, rising."""
    if not model.spec.curve:
        return [None]
    return [*sorted({point.keep for point in model.spec.curve if point.keep < 1}), 1.0]


def _times(
    points: list[tuple[ModelPoint, Recommender]],
    histories: list[list[str]],
    timing: Timing,
    progress: Callable[[str], None],
) -> Floats:
    """`[N, P]`: a round asks every point for the same histories, so disturbances hit all."""
    every = timing.rounds if len(histories) >= timing.rounds else 1
    rounds = []
    for number in range(-WARM_UP_ROUNDS, timing.rounds):
        progress(f"times: round {max(0, number + 1)} of {timing.rounds}")
        asked = histories[number % every :: every]
        calls = [
            asked[start : start + timing.batch] for start in range(0, len(asked), timing.batch)
        ]
        times_P = np.zeros(len(points))
        for place in permutation(mix(ORDER_SEED, number + WARM_UP_ROUNDS), len(points)):
            point, model = points[place]
            start_s = time.perf_counter()
            for call in calls:
                model.recommend(call, k=CUT, exclude_seen=False, keep=point.keep)
            times_P[place] = 1000 * (time.perf_counter() - start_s) / len(asked)
        if number >= 0:
            rounds.append(times_P)
    return np.stack(rounds)
