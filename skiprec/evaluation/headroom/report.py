"""From what block sets reach for each row to `headroom.json`: every number of it is made here."""

import itertools
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray

from skiprec.evaluation.headroom.regression import correlation_interval, fit_ridge, lower_half
from skiprec.evaluation.measure.frontier import bracket, hull_sizes
from skiprec.evaluation.measure.intervals import Floats, UserBootstrap, interval
from skiprec.observability.frontier_picture import Point, draw_frontier
from skiprec.policy.knobs import NUM_POINTS
from skiprec.policy.prices import choices_by_price
from skiprec.ranking import metric_values

METRIC = "mrr@20"
CONTROLS = ("minus_frontier", "minus_hull")
SIZES = (1 / 8, 1 / 4, 1 / 2, 3 / 4)

Record = dict[str, Any]


@dataclass(frozen=True)
class SetsOfRows:
    """Some rows under the nest: set s has s + 1 blocks, the last one all of them."""

    feature_RF: Floats
    entropy_RS: Floats
    rank_RS: Floats
    user_R: NDArray[np.int32]

    @property
    def cost_RS(self) -> Floats:
        """Cross-entropy above that of all blocks, nats; the last column is 0."""
        return self.entropy_RS - self.entropy_RS[:, -1:]


def headroom_report(
    removed: tuple[int, ...], fit: SetsOfRows, held: SetsOfRows, conditions: Record
) -> Record:
    """The contents of `headroom.json`.

    Args:
        removed: the blocks, the one that is missed least first.
        fit: rows that the predictor learns from.
        held: rows that everything else is about.
    """
    found = _Held(fit, held)
    num_blocks = len(removed)
    sizes = sorted({max(1, round(share * num_blocks)) for share in SIZES})
    report: Record = {
        "removed_first": list(removed),
        "sets": [found.set_of(size) for size in range(1, num_blocks + 1)],
        "sizes": [found.size(size) for size in sizes],
        "pairs": [found.pair(a, b) for a, b in itertools.combinations(sizes, 2)],
        "curve": found.curve(),
        "curve_mean": found.curve_mean(),
        "hull": found.hull,
        "shared_users_frac": float(np.isin(held.user_R, fit.user_R).mean()),
        "conditions": conditions,
    }
    report["statements"] = headroom_statements(report)
    return report


class _Held:
    """The held-out rows, what is predicted for them, and one set of resampled users."""

    def __init__(self, fit: SetsOfRows, held: SetsOfRows) -> None:
        self.fit, self.held = fit, held
        self.num_blocks = held.rank_RS.shape[1]
        self.ridge = fit_ridge(fit.feature_RF, fit.cost_RS[:, :-1], fit.user_R)
        predicted_RS = self.ridge.predict(held.feature_RF)
        self.predicted_RS = np.concatenate([predicted_RS, np.zeros((len(predicted_RS), 1))], axis=1)
        self.mrr_RS = _reciprocal_ranks(held)
        self.every_size = list(range(1, self.num_blocks + 1))
        # Chosen on other rows than it is measured on, so neither side is favoured.
        mean_S = _reciprocal_ranks(fit).mean(0).tolist()
        self.hull = hull_sizes(dict(zip(self.every_size, mean_S, strict=True)))
        self.bootstrap = UserBootstrap(held.user_R)
        size_S = torch.arange(1, self.num_blocks + 1)
        self.chosen = [
            (price, size_R.numpy())
            for price, size_R in choices_by_price(
                torch.from_numpy(self.predicted_RS), size_S, NUM_POINTS
            )
        ]

    def mean(self, name: str, value_R: Floats) -> Record:
        """A mean over rows with its interval."""
        resampled_N = self.bootstrap.resampled_means(value_R[:, None])[:, 0]
        return {name: float(value_R.mean()), f"{name}_interval": interval(resampled_N)}

    def set_of(self, size: int) -> Record:
        """One set of the nest, on the held-out rows."""
        cost = self.mean("cost_nats", self.held.cost_RS[:, size - 1])
        return {"kept_blocks": size, **self.mean(METRIC, self.mrr_RS[:, size - 1]), **cost}

    def size(self, size: int) -> Record:
        """How well the cost of a set is told from the history."""
        column = size - 1
        record = self.set_of(size) | {"cost_nats_fit_rows": self.fit.cost_RS[:, column].mean()}
        if size == self.num_blocks:
            return record
        cost_R, predicted_R = self.held.cost_RS[:, column], self.predicted_RS[:, column]
        found, bounds = correlation_interval(self.bootstrap, predicted_R, cost_R)
        return record | {
            "cost_nats_std": cost_R.std(),
            "penalty": self.ridge.penalty_M[column],
            "correlation": found,
            "correlation_interval": bounds,
        }

    def pair(self, shallow: int, deep: int) -> Record:
        """The half whose loss by the shallow set is predicted to be lower gets it."""
        loss_R = self.predicted_RS[:, shallow - 1] - self.predicted_RS[:, deep - 1]
        size_R = np.where(lower_half(loss_R), shallow, deep)
        chosen_R = self._at(self.mrr_RS, size_R)
        # A coin's expectation at the same rate, so that no single toss of it adds noise.
        random_R = bracket([shallow, deep], size_R.mean()).mix(
            self.mrr_RS[:, shallow - 1], self.mrr_RS[:, deep - 1]
        )
        return {
            "shallow": shallow,
            "deep": deep,
            "kept_blocks": float(size_R.mean()),
            **self.mean(METRIC, chosen_R),
            "random_half": float(random_R.mean()),
            "minus_random_half": self.mean(METRIC, chosen_R - random_R),
            **self._against_sets(size_R),
        }

    def curve(self) -> list[Record]:
        """Each row by the set with the least predicted cost + price * its share of the blocks."""
        return [
            {
                "price": price,
                "kept_blocks": float(size_R.mean()),
                **self.mean(METRIC, self._at(self.mrr_RS, size_R)),
                **self._against_sets(size_R),
            }
            for price, size_R in self.chosen
        ]

    def curve_mean(self) -> Record:
        """The mean, over the points of the curve, of what each is above sets of the same mean."""
        return {
            name: self.mean(
                METRIC,
                np.mean([self._gain(self.mrr_RS, size_R, sizes) for _, size_R in self.chosen], 0),
            )
            for name, sizes in (("minus_frontier", self.every_size), ("minus_hull", self.hull))
        }

    def _at(self, value_RS: Floats, size_R: NDArray[np.int64]) -> Floats:
        return np.take_along_axis(value_RS, size_R[:, None] - 1, axis=1)[:, 0]

    def _gain(self, value_RS: Floats, size_R: NDArray[np.int64], sizes: list[int]) -> Floats:
        at = bracket(sizes, float(size_R.mean()))
        return self._at(value_RS, size_R) - at.mix(
            value_RS[:, at.below - 1], value_RS[:, at.above - 1]
        )

    def _against_sets(self, size_R: NDArray[np.int64]) -> Record:
        cost_RS = self.held.cost_RS
        return {
            "minus_frontier": self.mean(METRIC, self._gain(self.mrr_RS, size_R, self.every_size)),
            "minus_hull": self.mean(METRIC, self._gain(self.mrr_RS, size_R, self.hull)),
            "nats_minus_frontier": self.mean("nats", self._gain(cost_RS, size_R, self.every_size)),
        }


def _reciprocal_ranks(rows: SetsOfRows) -> Floats:
    rank_RS = torch.from_numpy(rows.rank_RS.astype(np.int64))
    value_RS: Floats = metric_values(rank_RS)[METRIC].numpy()
    return value_RS


def headroom_statements(report: Record) -> list[str]:
    """The verdict, and what stands against believing it."""
    means = report["curve_mean"]
    bounds = [means[control][f"{METRIC}_interval"] for control in CONTROLS]
    text = (
        f"averaged over {len(report['curve'])} mean depths, depth that follows a regression on the "
        f"history reaches {_gain_text(means['minus_frontier'])} MRR@20 against fixed sets of the "
        f"same mean depth, and {_gain_text(means['minus_hull'])} against the best coins between "
        "two of them."
    )
    if all(low > 0 for low, _ in bounds):
        verdict = "Personal depth CAN PAY on this data with this backbone: "
    elif any(high < 0 for _, high in bounds):
        verdict = "Personal depth LOSES on this data with this backbone: "
    else:
        verdict = "It is NOT SHOWN that personal depth can pay on this data with this backbone: "
    found = [verdict + text]
    if not report["conditions"]["trained_to_skip"]:
        found.append(
            "CAUTION: this backbone was never trained for skipping, so removing blocks costs it "
            "more than it would cost one that was: these costs are overstated."
        )
    if report["shared_users_frac"] > 0:
        found.append(
            f"CAUTION: {100 * report['shared_users_frac']:.0f} % of the held-out rows are of users "
            "who have rows in the fit, too; for new users less may be predictable."
        )
    return found


def draw_headroom(report: Record) -> Figure:
    """`headroom.png`."""

    def point(record: Record) -> Point:
        return record["kept_blocks"], record[METRIC], record[f"{METRIC}_interval"]

    curve = [
        (point(r), point(r["minus_frontier"] | {"kept_blocks": r["kept_blocks"]}))
        for r in report["curve"]
    ]
    return draw_frontier(
        [point(record) for record in report["sets"]],
        report["hull"],
        curve,
        None,
        {},
        "Headroom of personal depth",
    )


def _gain_text(record: Record) -> str:
    low, high = record[f"{METRIC}_interval"]
    return f"{record[METRIC]:+.4f} [{low:+.4f}, {high:+.4f}]"
