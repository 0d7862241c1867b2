"""The table of an evaluation, with one line for each row of a user. It holds all results."""

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from skiprec.evaluation.measure.arms import (
    ALL_BLOCKS,
    FULL,
    FULL_BACKBONE,
    SKIPREC,
    Arms,
    Keep,
    first_blocks,
    scored_arms,
)
from skiprec.evaluation.measure.compute_cost import ComputeCost
from skiprec.evaluation.measure.timing import Seconds, stage_name

Columns = dict[str, NDArray[np.generic]]


def per_user_table(
    parts: list[Columns],
    arms: Arms | None,
    cost: ComputeCost,
    timed_R: NDArray[np.int64],
    seconds: Seconds | None,
) -> pa.Table:
    """`per_user.parquet`; docs/metrics.md explains its columns.

    Args:
        parts: the columns of each work unit, in the order of the rows.
        arms: the decisions; None for a network without a policy.
        timed_R: places, in this table, of the rows of the timing sample.
        seconds: times of batch 1, if there are any; round i is of row `timed_R[i % len(timed_R)]`.
    """
    columns = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    if FULL_BACKBONE.rank_column not in columns:  # there was no pretraining run
        columns[FULL_BACKBONE.rank_column] = columns[ALL_BLOCKS.rank_column]
    num_rows = len(columns["row"])
    arrays: dict[str, pa.Array] = {name: pa.array(column) for name, column in columns.items()}
    arrays[FULL.flops_column] = pa.array(np.full(num_rows, cost.full, np.int64))
    exits = {
        arm: first_blocks(arm.number, len(cost.block_L))
        for arm in scored_arms(columns)
        if arm.kind == "exit" and arm.number is not None
    }
    arrays |= _cost_columns(exits, cost, num_rows)
    if arms is not None:
        arrays |= _decision_columns(arms, cost)
    for arm in (FULL, SKIPREC):
        stage = stage_name(arm, "end")
        if seconds is not None and stage in seconds:
            arrays[arm.time_column] = _median_of_each_row(seconds[stage], timed_R, num_rows)
    return pa.table(arrays)


def kept_matrix(table: pa.Table) -> Keep:
    """`keep_RL`: the learned decisions."""
    keep = table.column("keep").combine_chunks()
    values = keep.values.to_numpy(zero_copy_only=False)
    return np.asarray(values, bool).reshape(len(keep), -1)


def column(table: pa.Table, name: str) -> NDArray[np.float64]:
    """A column as floats; a missing value is NaN."""
    return np.asarray(table.column(name).to_numpy(), np.float64)


def _decision_columns(arms: Arms, cost: ComputeCost) -> dict[str, pa.Array]:
    keep_RL = arms[SKIPREC]
    num_rows, num_blocks = keep_RL.shape
    flat = pa.array(np.ascontiguousarray(keep_RL).ravel())
    keep = pa.FixedSizeListArray.from_arrays(flat, num_blocks)
    return {"keep": keep, **_cost_columns(arms, cost, num_rows)}


def _cost_columns(arms: Arms, cost: ComputeCost, num_rows: int) -> dict[str, pa.Array]:
    arrays = {}
    for arm, keep in arms.items():
        flops = cost.rows(keep, with_policy=arm.is_decided_by_the_policy)
        arrays[arm.blocks_kept_column] = pa.array(_of_each_row(keep.sum(1), num_rows, np.int16))
        arrays[arm.flops_column] = pa.array(_of_each_row(flops, num_rows, np.int64))
    return arrays


def _of_each_row(value: NDArray[np.int64], num_rows: int, kind: type) -> NDArray[np.generic]:
    return np.broadcast_to(value, num_rows).astype(kind)


def _median_of_each_row(
    seconds: NDArray[np.float64], timed_R: NDArray[np.int64], num_rows: int
) -> pa.Array:
    """The median over a row's rounds at the place of the row; null where a row was not timed."""
    place = timed_R[np.arange(len(seconds)) % len(timed_R)]
    time_R = np.full(num_rows, np.nan)
    for row in np.unique(place):
        time_R[row] = np.median(seconds[place == row])
    return pa.array(time_R, from_pandas=True)
