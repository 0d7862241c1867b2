"""From the results of block sets on each row to `headroom.json`: all its numbers are made here."""

import itertools
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray

from skiprec.evaluation.headroom.block_sets import Features
from skiprec.evaluation.headroom.regression import correlation_interval, fit_ridge, lower_half
from skiprec.evaluation.headroom.schema import (
    AllGains,
    CostDifference,
    Gains,
    HeadroomConditions,
    HeadroomReport,
    NestedSet,
    Pair,
    PredictedSet,
    PricedPoint,
)
from skiprec.evaluation.measure.frontier import bracket, hull_sizes
from skiprec.evaluation.measure.intervals import Floats, Interval, UserBootstrap, interval
from skiprec.evaluation.report.schema import METRIC, Accuracy
from skiprec.observability.markdown import with_interval
from skiprec.policy.knobs import NUM_POINTS
from skiprec.policy.prices import choices_by_price
from skiprec.ranking import metric_values

# The sizes of the pairs, as shares of all blocks.
SIZES = (1 / 8, 1 / 4, 1 / 2, 3 / 4)


@dataclass(frozen=True)
class SetsOfRows:
    """Results of some rows with every set of the nest; the last set is all blocks.

    Args:
        size_S: the number of blocks of each set, rising.
    """

    size_S: NDArray[np.int64]
    features: Features
    entropy_RS: Floats
    rank_RS: Floats
    user_R: NDArray[np.int32]

    @property
    def cost_RS(self) -> Floats:
        """Cross-entropy minus that of all blocks, nats; the last column is 0."""
        return self.entropy_RS - self.entropy_RS[:, -1:]

    @property
    def mrr_RS(self) -> Floats:
        """What each row adds to MRR@20."""
        value_RS: Floats = metric_values(torch.from_numpy(self.rank_RS.astype(np.int64)))[
            METRIC
        ].numpy()
        return value_RS

    @property
    def loss_RS(self) -> Floats:
        """What a row loses of MRR@20 against all blocks; the last column is 0."""
        return self.mrr_RS[:, -1:] - self.mrr_RS


def headroom_report(
    removed: tuple[int, ...] | None,
    fit: SetsOfRows,
    held: SetsOfRows,
    conditions: HeadroomConditions,
) -> HeadroomReport:
    """The contents of `headroom.json`.

    Args:
        removed: the blocks in the order of their removal; None: the sets are those of the exits.
        fit: rows that the predictor learns from.
        held: rows of all other numbers.
    """
    held_out = _HeldOut(fit, held)
    sizes = every_size = held_out.every_size
    if removed is not None:
        sizes = sorted({max(1, round(share * len(removed))) for share in SIZES})
    report: HeadroomReport = {
        "removed_first": None if removed is None else list(removed),
        "sets": [held_out.nested_set(size) for size in every_size],
        "sizes": [held_out.predicted_set(size) for size in sizes],
        "pairs": [held_out.pair(a, b) for a, b in itertools.combinations(sizes, 2)],
        "curve": held_out.curve(),
        "curve_mean": held_out.curve_mean(),
        "hull": held_out.hull,
        "shared_users_frac": float(np.isin(held.user_R, fit.user_R).mean()),
        "conditions": conditions,
        "statements": [],
    }
    report["statements"] = headroom_statements(report)
    return report


class _HeldOut:
    """The held-out rows, the losses predicted for them, and one set of resampled users."""

    def __init__(self, fit: SetsOfRows, held: SetsOfRows) -> None:
        self.fit, self.held = fit, held
        self.every_size: list[int] = held.size_S.tolist()
        self.column_of = {size: column for column, size in enumerate(self.every_size)}
        value_RF, weight_F = fit.features
        self.ridge = fit_ridge(value_RF, weight_F, fit.loss_RS[:, :-1], fit.user_R)
        predicted_RS = self.ridge.predict(held.features.value_RF)
        self.predicted_RS = np.concatenate([predicted_RS, np.zeros((len(predicted_RS), 1))], axis=1)
        self.mrr_RS = held.mrr_RS
        # The hull is chosen on other rows than it is measured on, so that neither side is favoured.
        mean_S = fit.mrr_RS.mean(0).tolist()
        self.hull = hull_sizes(dict(zip(self.every_size, mean_S, strict=True)))
        self.bootstrap = UserBootstrap(held.user_R)
        size_S = torch.from_numpy(held.size_S)
        self.chosen = [
            (price, size_R.numpy())
            for price, size_R in choices_by_price(
                torch.from_numpy(self.predicted_RS), size_S, NUM_POINTS
            )
        ]

    def estimate(self, value_R: Floats) -> tuple[float, Interval]:
        """A mean over rows and its interval."""
        resampled_N = self.bootstrap.resampled_means(value_R[:, None])[:, 0]
        return float(value_R.mean()), interval(resampled_N)

    def accuracy(self, mrr_R: Floats) -> Accuracy:
        """The mean of reciprocal ranks, or of a difference of them."""
        mean, bounds = self.estimate(mrr_R)
        return {"mrr@20": mean, "mrr@20_interval": bounds}

    def nested_set(self, size: int) -> NestedSet:
        """One set of the nest, on the held-out rows."""
        column = self.column_of[size]
        cost, cost_bounds = self.estimate(self.held.cost_RS[:, column])
        return {
            "kept_blocks": size,
            **self.accuracy(self.mrr_RS[:, column]),
            "cost_nats": cost,
            "cost_nats_interval": cost_bounds,
        }

    def predicted_set(self, size: int) -> PredictedSet:
        """One set of the nest, and how well its loss is predicted."""
        column = self.column_of[size]
        fit_rows = {"cost_nats_fit_rows": self.fit.cost_RS[:, column].mean()}
        record = cast(PredictedSet, {**self.nested_set(size), **fit_rows})
        if size == self.every_size[-1]:
            return record
        loss_R, predicted_R = self.held.loss_RS[:, column], self.predicted_RS[:, column]
        correlation, bounds = correlation_interval(self.bootstrap, predicted_R, loss_R)
        record["cost_nats_std"] = self.held.cost_RS[:, column].std()
        record["penalty"] = self.ridge.penalty_M[column]
        record["correlation"] = correlation
        record["correlation_interval"] = bounds
        return record

    def pair(self, shallow: int, deep: int) -> Pair:
        """The half of the rows with the lower predicted loss gets the shallow set."""
        below, above = self.column_of[shallow], self.column_of[deep]
        predicted_R = self.predicted_RS[:, below] - self.predicted_RS[:, above]
        size_R = np.where(lower_half(predicted_R), shallow, deep)
        chosen_R = self._of_size(self.mrr_RS, size_R)
        # The expectation of a coin at the same rate, so that no single toss adds noise.
        random_R = bracket([shallow, deep], size_R.mean()).mix(
            self.mrr_RS[:, below], self.mrr_RS[:, above]
        )
        return {
            "shallow": shallow,
            "deep": deep,
            "kept_blocks": float(size_R.mean()),
            **self.accuracy(chosen_R),
            "random_half": float(random_R.mean()),
            "minus_random_half": self.accuracy(chosen_R - random_R),
            **self._gains(size_R),
        }

    def curve(self) -> list[PricedPoint]:
        """Each row by the set with the least predicted loss + price * share of the blocks."""
        return [
            {
                "price": price,
                "kept_blocks": float(size_R.mean()),
                **self.accuracy(self._of_size(self.mrr_RS, size_R)),
                **self._gains(size_R),
            }
            for price, size_R in self.chosen
        ]

    def curve_mean(self) -> Gains:
        """The mean of the gains over the points of the curve."""
        return {
            "minus_frontier": self._mean_gain(self.every_size),
            "minus_hull": self._mean_gain(self.hull),
        }

    def _mean_gain(self, sizes: list[int]) -> Accuracy:
        gains = [self._gain(self.mrr_RS, size_R, sizes) for _, size_R in self.chosen]
        return self.accuracy(np.mean(gains, 0))

    def _of_size(self, value_RS: Floats, size_R: NDArray[np.int64]) -> Floats:
        column_R = np.searchsorted(self.held.size_S, size_R)
        return np.take_along_axis(value_RS, column_R[:, None], axis=1)[:, 0]

    def _gain(self, value_RS: Floats, size_R: NDArray[np.int64], sizes: list[int]) -> Floats:
        """`[R]`: the value with the chosen sizes minus that of a coin of the same mean size."""
        coin = bracket(sizes, float(size_R.mean()))
        return self._of_size(value_RS, size_R) - coin.mix(
            value_RS[:, self.column_of[coin.below]], value_RS[:, self.column_of[coin.above]]
        )

    def _gains(self, size_R: NDArray[np.int64]) -> AllGains:
        nats, bounds = self.estimate(self._gain(self.held.cost_RS, size_R, self.every_size))
        cost: CostDifference = {"nats": nats, "nats_interval": bounds}
        return {
            "minus_frontier": self.accuracy(self._gain(self.mrr_RS, size_R, self.every_size)),
            "minus_hull": self.accuracy(self._gain(self.mrr_RS, size_R, self.hull)),
            "nats_minus_frontier": cost,
        }


def headroom_statements(report: HeadroomReport) -> list[str]:
    """The verdict, and the reasons to doubt it."""
    means = report["curve_mean"]
    bounds = [gain["mrr@20_interval"] for gain in (means["minus_frontier"], means["minus_hull"])]
    reads_after = report["conditions"]["reads_after"]
    read = "the history" if reads_after is None else f"the state at exit {reads_after}"
    text = (
        f"averaged over {len(report['curve'])} mean depths, depth that follows a regression on "
        f"{read} reaches {_gain_text(means['minus_frontier'])} MRR@20 against fixed sets of the "
        f"same mean depth, and {_gain_text(means['minus_hull'])} against the best coins between "
        "two of them."
    )
    if all(low > 0 for low, _ in bounds):
        verdict = "Personal depth CAN PAY on this data with this backbone: "
    elif any(high < 0 for _, high in bounds):
        verdict = "Personal depth LOSES on this data with this backbone: "
    else:
        verdict = "It is NOT SHOWN that personal depth can pay on this data with this backbone: "
    sentences = [verdict + text]
    if not report["conditions"]["trained_to_skip"]:
        sentences.append(
            "CAUTION: this backbone was never trained for skipping, so removing blocks costs it "
            "more than it would cost one that was: these costs are overstated."
        )
    if report["shared_users_frac"] > 0:
        sentences.append(
            f"CAUTION: {100 * report['shared_users_frac']:.0f} % of the held-out rows are of users "
            "who have rows in the fit, too; for new users less may be predictable."
        )
    return sentences


def _gain_text(gain: Accuracy) -> str:
    return with_interval(gain["mrr@20"], gain["mrr@20_interval"], "+.4f")
