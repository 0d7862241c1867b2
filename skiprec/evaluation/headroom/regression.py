"""The gain that users could have from a personal depth, measured before any policy is trained.

A nest of block sets is built by removing, one after the other, the blocks that are missed least. A
network with exits has its own: the first blocks up to each exit. The cost of a set for a user is
its cross-entropy minus that of all blocks. A regression predicts what a set loses of MRR@20, from
simple features of the history or, with exits, from the state at the first one. If the prediction
holds for users who were not in the fit, depth can be given to those who need it; the gain is
measured against the frontier of the same sets.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from skiprec.evaluation.measure.intervals import Floats, Interval, UserBootstrap, interval

Keep = NDArray[np.bool_]
# From the remaining blocks, rising, to the cross-entropy without each of them.
RemovalCosts = Callable[[tuple[int, ...]], Floats]

MAX_PASSES = 32
FOLDS = 5
PENALTIES = tuple(10.0**power for power in range(-1, 7))


def removal_order(num_blocks: int, costs_without: RemovalCosts) -> tuple[int, ...]:
    """The blocks in the order of their removal; the one that is missed least comes first.

    The search is greedy: each pass measures the network without each of the remaining blocks and
    removes the block with the lowest cost; of equal ones the earlier. With more than `MAX_PASSES`
    blocks, each pass removes several.
    """
    at_once = -(-num_blocks // MAX_PASSES)
    kept = tuple(range(num_blocks))
    removed: list[int] = []
    while kept:
        cheapest = np.argsort(costs_without(kept), kind="stable")[:at_once]
        removed += [kept[place] for place in cheapest.tolist()]
        kept = tuple(block for block in kept if block not in removed)
    return tuple(removed)


def nested_sets(removed: tuple[int, ...]) -> Keep:
    """`keep_SL`: for each size from 1 to all blocks, the blocks that are removed last."""
    num_blocks = len(removed)
    keep_SL = np.zeros((num_blocks, num_blocks), bool)
    for size in range(1, num_blocks + 1):
        keep_SL[size - 1, list(removed[num_blocks - size :])] = True
    return keep_SL


def sets_of_exits(depths: tuple[int, ...]) -> Keep:
    """`keep_SL`: for each depth, the first blocks up to it; the last depth is all blocks."""
    return np.arange(depths[-1]) < np.asarray(depths)[:, None]


@dataclass(frozen=True)
class Ridge:
    """A linear prediction from standardised features, `[rows, features]` to `[rows, outputs]`."""

    mean_F: Floats
    scale_F: Floats
    weight_FM: Floats
    bias_M: Floats
    penalty_M: Floats

    def predict(self, x_RF: Floats) -> Floats:
        """`[R, M]`: the prediction for each row, one column for each output."""
        return (x_RF - self.mean_F) / self.scale_F @ self.weight_FM + self.bias_M


def fit_ridge(x_RF: Floats, weight_F: Floats, y_RM: Floats, user_R: NDArray[np.int32]) -> Ridge:
    """Least squares + penalty * |weights|^2 on standardised features; the bias is free.

    The standardised features are multiplied by `weight_F`: the penalty holds a feature with a
    small one back more.

    Each output has the penalty of `PENALTIES` with the least squared error in cross-validation over
    `FOLDS` groups of users, all rows of a user together.
    """
    fold_R = np.unique(user_R, return_inverse=True)[1] % FOLDS
    error_PM = np.zeros((len(PENALTIES), y_RM.shape[1]))
    for fold in range(FOLDS):
        held_R = fold_R == fold
        for index, ridge in enumerate(_path(x_RF[~held_R], weight_F, y_RM[~held_R])):
            error_PM[index] += np.square(ridge.predict(x_RF[held_R]) - y_RM[held_R]).sum(0)
    best_M = error_PM.argmin(0)
    fits = _path(x_RF, weight_F, y_RM)
    picks = [(fits[best], m) for m, best in enumerate(best_M.tolist())]
    return Ridge(
        fits[0].mean_F,
        fits[0].scale_F,
        np.stack([fit.weight_FM[:, m] for fit, m in picks], axis=1),
        fits[0].bias_M,
        np.asarray(PENALTIES)[best_M],
    )


def _path(x_RF: Floats, weight_F: Floats, y_RM: Floats) -> list[Ridge]:
    """The fit at each penalty, from one decomposition."""
    mean_F, scale_F = x_RF.mean(0), x_RF.std(0)
    scale_F = np.where(scale_F > 0, scale_F, 1.0)  # a feature that does not vary becomes 0
    scale_F = scale_F / weight_F
    z_RF = (x_RF - mean_F) / scale_F
    bias_M = y_RM.mean(0)
    value_F, vector_FF = np.linalg.eigh(z_RF.T @ z_RF)
    moment_FM = vector_FF.T @ (z_RF.T @ (y_RM - bias_M))
    return [
        Ridge(
            mean_F,
            scale_F,
            vector_FF @ (moment_FM / (value_F.clip(min=0) + penalty)[:, None]),
            bias_M,
            np.full(y_RM.shape[1], penalty),
        )
        for penalty in PENALTIES
    ]


def correlation_interval(
    bootstrap: UserBootstrap, a_R: Floats, b_R: Floats
) -> tuple[float | None, Interval | None]:
    """Pearson's correlation and its interval over users; None where one of the two is constant."""
    if np.ptp(a_R) == 0 or np.ptp(b_R) == 0:
        return None, None
    # Values are centred first, because large means would lose digits in the differences below.
    a_R, b_R = a_R - a_R.mean(), b_R - b_R.mean()
    moment_RC = np.stack([a_R, b_R, a_R * a_R, b_R * b_R, a_R * b_R], axis=1)
    correlation = _correlation(moment_RC.mean(0)[None])[0]
    return float(correlation), interval(_correlation(bootstrap.resampled_means(moment_RC)))


def _correlation(mean_NC: Floats) -> Floats:
    a, b, aa, bb, ab = mean_NC.T
    correlation_N: Floats = (ab - a * b) / np.sqrt((aa - a * a) * (bb - b * b))
    return correlation_N


def lower_half(predicted_R: Floats) -> NDArray[np.bool_]:
    """`[R]`: whether a row is in the half with the lowest predictions, rounded down.

    Of equal predictions the earlier rows are in it.
    """
    chosen_R = np.zeros(len(predicted_R), bool)
    chosen_R[np.argsort(predicted_R, kind="stable")[: len(predicted_R) // 2]] = True
    return chosen_R
