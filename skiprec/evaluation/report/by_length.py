"""Accuracy by the length of the history before the target, which may reach beyond the window."""

import numpy as np
import pyarrow as pa
import torch

from skiprec.evaluation.measure.arms import ALL_BLOCKS, FULL_BACKBONE, POPULARITY, SKIPREC
from skiprec.evaluation.measure.intervals import UserBootstrap, interval
from skiprec.evaluation.report.schema import METRIC, LengthRow
from skiprec.evaluation.report.table import column
from skiprec.ranking import metric_values

COLUMN = "history_items"
# The first length of each line; the last line has no end.
STARTS = (1, 5, 10, 20, 50, 100, 200, 500)
ARMS = (FULL_BACKBONE, ALL_BLOCKS, SKIPREC, POPULARITY)


def accuracy_by_length(table: pa.Table) -> list[LengthRow]:
    """One line for each range of lengths that has rows; shares of blocks only with a policy."""
    if COLUMN not in table.column_names:  # a table of an earlier version
        return []
    length_R = column(table, COLUMN)
    user_R = np.asarray(table.column("user").to_numpy(), np.int32)
    metric_of = {}
    for arm in ARMS:
        if arm.rank_column in table.column_names:
            rank_R = torch.from_numpy(np.array(table.column(arm.rank_column).to_numpy(), np.int64))
            metric_of[arm.name] = metric_values(rank_R)[METRIC].numpy()
    lines = []
    for start, end in zip(STARTS, (*STARTS[1:], None), strict=True):
        inside_R = (length_R >= start) & (length_R < (np.inf if end is None else end))
        if not inside_R.any():
            continue
        value_RA = np.stack([value_R[inside_R] for value_R in metric_of.values()], axis=1)
        resampled_NA = UserBootstrap(user_R[inside_R]).resampled_means(value_RA)
        line: LengthRow = {
            "from": start,
            "to": None if end is None else end - 1,
            "rows": int(inside_R.sum()),
            "accuracy": {
                name: {"mrr@20": float(value_R.mean()), "mrr@20_interval": interval(resampled_N)}
                for name, value_R, resampled_N in zip(
                    metric_of, value_RA.T, resampled_NA.T, strict=True
                )
            },
        }
        if SKIPREC.blocks_kept_column in table.column_names:
            line["kept_blocks"] = float(column(table, SKIPREC.blocks_kept_column)[inside_R].mean())
        lines.append(line)
    return lines
