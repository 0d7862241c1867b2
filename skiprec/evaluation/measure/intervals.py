"""95 % confidence intervals by the bootstrap over users; a user's rows stay together."""

import numpy as np
from numpy.typing import NDArray

RESAMPLES = 1000
QUANTILES = (0.025, 0.975)
SEED = 20260101
# The number of users times resamples that are drawn at once; it bounds the memory.
DRAWN = 2**23

Floats = NDArray[np.float64]
Interval = tuple[float, float]


class UserBootstrap:
    """The same resamples for every column, so that differences between columns are paired.

    Args:
        user_R: the user of each row.
    """

    def __init__(self, user_R: NDArray[np.int32]) -> None:
        users, self.group_R = np.unique(user_R, return_inverse=True)
        self.num_users = len(users)

    def resampled_means(self, value_RC: Floats) -> Floats:
        """`[RESAMPLES, C]`: the mean of each column over the rows of each resample."""
        rows_U = np.bincount(self.group_R, minlength=self.num_users).astype(np.float64)
        sums = [
            np.bincount(self.group_R, weights=column_R, minlength=self.num_users)
            for column_R in value_RC.T
        ]
        sum_UC = np.stack([*sums, rows_U], axis=1)
        draw = np.random.default_rng(SEED)
        size = max(1, DRAWN // self.num_users)
        means = []
        for start in range(0, RESAMPLES, size):
            num = min(size, RESAMPLES - start)
            user_NU = draw.integers(0, self.num_users, (num, self.num_users))
            flat = user_NU + np.arange(num)[:, None] * self.num_users
            times = np.bincount(flat.ravel(), minlength=num * self.num_users)
            total_NC = times.reshape(num, self.num_users).astype(np.float64) @ sum_UC
            means.append(total_NC[:, :-1] / total_NC[:, -1:])
        return np.concatenate(means)


def interval(resampled: Floats) -> Interval:
    """The bounds of the middle 95 % of some resampled values."""
    low, high = np.quantile(resampled, QUANTILES)
    return float(low), float(high)


def median_ratio(numerator_N: Floats, denominator_N: Floats) -> tuple[float, Interval]:
    """The median of paired ratios, and its interval over resampled pairs."""
    ratio_N = numerator_N / denominator_N
    draw = np.random.default_rng(SEED)
    picks = draw.integers(0, len(ratio_N), (RESAMPLES, len(ratio_N)))
    return float(np.median(ratio_N)), interval(np.median(ratio_N[picks], axis=1))
