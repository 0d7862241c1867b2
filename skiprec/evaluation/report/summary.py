"""Means over rows of every arm, with intervals: all from the same resamples, so all are paired."""

from typing import cast

import numpy as np
import pyarrow as pa
import torch

from skiprec.evaluation.measure.arms import FULL, SKIPREC, Arm, scored_arms
from skiprec.evaluation.measure.frontier import Bracket, bracket, hull_sizes
from skiprec.evaluation.measure.intervals import Floats, Interval, UserBootstrap, interval
from skiprec.evaluation.report.schema import METRIC, ArmMetrics, Metrics, metrics_record
from skiprec.evaluation.report.table import column
from skiprec.ranking import METRIC_CUTS, metric_values

FLOPS = "flops"


class Summary:
    """Metrics and FLOPs of the arms of a per-user table, and of the frontier of fixed sets.

    The mixtures are no columns of the table: the frontier at the mean number of blocks of another
    arm, and the hull there (`frontier_at`, `hull_at`). Their sizes and weights are fixed while
    users are resampled. The sizes of the hull are chosen by the MRR@20 of these rows, which favours
    the hull.
    """

    def __init__(self, table: pa.Table) -> None:
        self.arms = scored_arms(table.column_names)
        value: dict[tuple[Arm, str], Floats] = {}
        for arm in self.arms:
            rank_R = torch.from_numpy(np.array(table.column(arm.rank_column).to_numpy(), np.int64))
            for metric, value_R in metric_values(rank_R).items():
                value[arm, metric] = value_R.numpy()
            if arm.flops_column in table.column_names:
                value[arm, FLOPS] = column(table, arm.flops_column)
        value[FULL, FLOPS] = column(table, FULL.flops_column)
        self.kept = {
            arm: float(column(table, arm.blocks_kept_column).mean())
            for arm in self.arms
            if arm.blocks_kept_column in table.column_names
        }
        self.set_of_size = {round(self.kept[arm]): arm for arm in self.arms if arm.is_fixed_set}
        self.curve = [arm for arm in self.arms if arm.kind == "learned"]
        self.hull = hull_sizes(
            {size: float(value[arm, METRIC].mean()) for size, arm in self.set_of_size.items()}
        )
        self.brackets: dict[Arm, Bracket] = {}
        for arm in (SKIPREC, *self.curve) if self.set_of_size else ():
            for mixture, sizes in (
                (frontier_at(arm), list(self.set_of_size)),
                (hull_at(arm), self.hull),
            ):
                coin = self.brackets[mixture] = bracket(sizes, self.kept[arm])
                below, above = self.set_of_size[coin.below], self.set_of_size[coin.above]
                for number in (*METRIC_CUTS, FLOPS):
                    value[mixture, number] = coin.mix(value[below, number], value[above, number])
        value_RC = np.stack(list(value.values()), axis=1)
        bootstrap = UserBootstrap(np.asarray(table.column("user").to_numpy(), np.int32))
        self.mean = dict(zip(value, value_RC.mean(0).tolist(), strict=True))
        resampled_NC = bootstrap.resampled_means(value_RC)
        self.resampled = dict(zip(value, resampled_NC.T, strict=True))

    def metrics(self, arm: Arm) -> ArmMetrics:
        """Every metric of an arm, and its speedup in FLOPs where the arm has FLOPs."""

        def estimate(metric: str) -> tuple[float, Interval]:
            return self.mean[arm, metric], interval(self.resampled[arm, metric])

        record = cast(ArmMetrics, metrics_record(estimate))  # no key beside the metrics yet
        full, own = (FULL, FLOPS), (arm, FLOPS)
        if own in self.mean:
            record["speedup_flops"] = self.mean[full] / self.mean[own]
            record["speedup_flops_interval"] = interval(self.resampled[full] / self.resampled[own])
        return record

    def difference(self, arm: Arm, rival: Arm) -> Metrics:
        """The metrics of an arm minus those of its rival."""

        def estimate(metric: str) -> tuple[float, Interval]:
            own, other = (arm, metric), (rival, metric)
            resampled_N = self.resampled[own] - self.resampled[other]
            return self.mean[own] - self.mean[other], interval(resampled_N)

        return metrics_record(estimate)


def frontier_at(arm: Arm) -> Arm:
    """The frontier at the mean number of blocks of an arm."""
    return Arm("frontier", arm.number)


def hull_at(arm: Arm) -> Arm:
    """The best coin between two fixed sets at the mean number of blocks of an arm."""
    return Arm("hull", arm.number)
