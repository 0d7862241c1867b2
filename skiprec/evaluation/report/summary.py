"""Means over rows of every arm, with intervals: all from the same resamples, so all are paired."""

from typing import Any

import numpy as np
import pyarrow as pa
import torch

from skiprec.evaluation.measure.frontier import Bracket, bracket, hull_sizes
from skiprec.evaluation.measure.intervals import Floats, UserBootstrap, interval
from skiprec.evaluation.report.table import arm_names, column
from skiprec.ranking import METRIC_CUTS, metric_values

Record = dict[str, Any]


class Summary:
    """Metrics and FLOPs of the arms of a per-user table, and of the frontier of fixed sets.

    Two arms are no columns: the frontier at the mean number of blocks of another arm, and its hull
    there (`frontier_at`, `hull_at`). Their sizes and weights are fixed while users are resampled.
    Which sizes make the hull is read off the MRR@20 of these rows, which favours the hull.
    """

    def __init__(self, table: pa.Table) -> None:
        self.names = arm_names(table)
        value: dict[tuple[str, str], Floats] = {}
        for name in self.names:
            rank_R = torch.from_numpy(np.array(table.column(f"rank_{name}").to_numpy(), np.int64))
            for metric, value_R in metric_values(rank_R).items():
                value[name, metric] = value_R.numpy()
            if f"flops_{name}" in table.column_names:
                value[name, "flops"] = column(table, f"flops_{name}")
        value["full", "flops"] = column(table, "flops_full")
        self.kept = {
            name: float(column(table, f"blocks_kept_{name}").mean())
            for name in self.names
            if f"blocks_kept_{name}" in table.column_names
        }
        self.frontier = {round(self.kept[name]): name for name in self.names if is_fixed_set(name)}
        self.curve = [name for name in self.names if name.startswith("learned_")]
        self.hull = hull_sizes(
            {size: float(value[name, "mrr@20"].mean()) for size, name in self.frontier.items()}
        )
        self.brackets: dict[str, Bracket] = {}
        for name in ("skiprec", *self.curve) if self.frontier else ():
            for control, sizes in (
                (frontier_at(name), list(self.frontier)),
                (hull_at(name), self.hull),
            ):
                at = self.brackets[control] = bracket(sizes, self.kept[name])
                below, above = self.frontier[at.below], self.frontier[at.above]
                for number in (*METRIC_CUTS, "flops"):
                    mixed_R = at.mix(value[below, number], value[above, number])
                    value[control, number] = mixed_R
        value_RC = np.stack(list(value.values()), axis=1)
        bootstrap = UserBootstrap(np.asarray(table.column("user").to_numpy(), np.int32))
        self.mean = dict(zip(value, value_RC.mean(0).tolist(), strict=True))
        resampled_NC = bootstrap.resampled_means(value_RC)
        self.resampled = dict(zip(value, resampled_NC.T, strict=True))

    def arm(self, name: str) -> Record:
        """Every metric with its interval, and the speedup in FLOPs where the arm has any."""
        record: Record = {}
        for metric in METRIC_CUTS:
            record[metric] = self.mean[name, metric]
            record[f"{metric}_interval"] = interval(self.resampled[name, metric])
        full, own = ("full", "flops"), (name, "flops")
        if own in self.mean:
            record["speedup_flops"] = self.mean[full] / self.mean[own]
            record["speedup_flops_interval"] = interval(self.resampled[full] / self.resampled[own])
        return record

    def difference(self, name: str, rival: str) -> Record:
        """The metrics of one arm minus those of another, with intervals."""
        record: Record = {}
        for metric in METRIC_CUTS:
            a, b = (name, metric), (rival, metric)
            record[metric] = self.mean[a] - self.mean[b]
            record[f"{metric}_interval"] = interval(self.resampled[a] - self.resampled[b])
        return record


def is_fixed_set(name: str) -> bool:
    """Whether an arm is a point of the frontier of fixed sets."""
    return name == "all_blocks" or name.startswith("fixed_")


def frontier_at(name: str) -> str:
    """The name of the frontier at the mean number of blocks of an arm."""
    return "frontier" if name == "skiprec" else f"frontier_at_{name}"


def hull_at(name: str) -> str:
    """The name of the best coin between two fixed sets at the mean number of blocks of an arm."""
    return "hull" if name == "skiprec" else f"hull_at_{name}"
