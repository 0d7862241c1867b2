"""The table of an evaluation: one line a row of a user. Every summary is computed from it."""

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from skiprec.evaluation.measure.arms import Arms, Keep
from skiprec.evaluation.measure.compute_cost import ComputeCost
from skiprec.evaluation.measure.timing import Seconds

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
        parts: what each work unit found, in the order of the rows.
        arms: their decisions; None for a network without a policy.
        timed_R: places, in this table, of the rows of the timing sample.
        seconds: of batch 1, if that was timed; round i is of row `timed_R[i % len(timed_R)]`.
    """
    columns = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    if "rank_full_backbone" not in columns:  # no separate run: all blocks are the full backbone
        columns["rank_full_backbone"] = columns["rank_all_blocks"]
    num_rows = len(columns["row"])
    arrays: dict[str, pa.Array] = {name: pa.array(column) for name, column in columns.items()}
    arrays["flops_full"] = pa.array(np.full(num_rows, cost.full, np.int64))
    if arms is not None:
        arrays |= _decision_columns(arms, cost)
    for name, key in (("full", "full/end"), ("skiprec", "skiprec/end")):
        if seconds is not None and key in seconds:
            arrays[f"time_{name}_s"] = _scatter(seconds[key], timed_R, num_rows)
    return pa.table(arrays)


def kept_matrix(table: pa.Table) -> Keep:
    """`keep_RL`: the learned decisions."""
    keep = table.column("keep").combine_chunks()
    values = keep.values.to_numpy(zero_copy_only=False)
    return np.asarray(values, bool).reshape(len(keep), -1)


def arm_names(table: pa.Table) -> list[str]:
    """The arms that were scored, in the order of their columns."""
    names = table.column_names
    return [name.removeprefix("rank_") for name in names if name.startswith("rank_")]


def column(table: pa.Table, name: str) -> NDArray[np.float64]:
    """A column as floats; missing values are not numbers."""
    return np.asarray(table.column(name).to_numpy(), np.float64)


def is_learned(arm: str) -> bool:
    """Whether an arm's decisions are made by the policy network, which must then be paid for."""
    return arm in ("skiprec", "shuffled") or arm.startswith("learned_")


def _decision_columns(arms: Arms, cost: ComputeCost) -> dict[str, pa.Array]:
    keep_RL = arms["skiprec"]
    num_rows, num_blocks = keep_RL.shape
    flat = pa.array(np.ascontiguousarray(keep_RL).ravel())
    arrays = {"keep": pa.FixedSizeListArray.from_arrays(flat, num_blocks)}
    for name, keep in arms.items():
        flops = cost.rows(keep, with_policy=is_learned(name))
        arrays[f"blocks_kept_{name}"] = pa.array(_of_each_row(keep.sum(1), num_rows, np.int16))
        arrays[f"flops_{name}"] = pa.array(_of_each_row(flops, num_rows, np.int64))
    return arrays


def _of_each_row(value: NDArray[np.int64], num_rows: int, kind: type) -> NDArray[np.generic]:
    return np.broadcast_to(value, num_rows).astype(kind)


def _scatter(seconds: NDArray[np.float64], timed_R: NDArray[np.int64], num_rows: int) -> pa.Array:
    """The median of each row's rounds at its place, null elsewhere."""
    place = timed_R[np.arange(len(seconds)) % len(timed_R)]
    time_R = np.full(num_rows, np.nan)
    for row in np.unique(place):
        time_R[row] = np.median(seconds[place == row])
    return pa.array(time_R, from_pandas=True)
