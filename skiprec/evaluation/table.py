"""The table of an evaluation: one line a row of a user. Every summary is computed from it."""

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from skiprec.evaluation.arms import POLICY_ARMS, Controls
from skiprec.evaluation.compute_cost import ComputeCost
from skiprec.evaluation.timing import Seconds

Columns = dict[str, NDArray[np.generic]]


def per_user_table(
    parts: list[Columns],
    controls: Controls | None,
    cost: ComputeCost,
    timed_R: NDArray[np.int64],
    seconds: Seconds | None,
) -> pa.Table:
    """`per_user.parquet`; docs/metrics.md explains its columns.

    Args:
        parts: what each work unit found, in the order of the rows.
        controls: the arms' decisions; None for a network without a policy.
        timed_R: places, in this table, of the rows of the timing sample.
        seconds: of batch 1, if that was timed; round i is of row `timed_R[i % len(timed_R)]`.
    """
    columns = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    if "rank_full_backbone" not in columns:  # no separate run: all blocks are the full backbone
        columns["rank_full_backbone"] = columns["rank_all_blocks"]
    num_rows = len(columns["row"])
    arrays: dict[str, pa.Array] = {name: pa.array(column) for name, column in columns.items()}
    arrays["flops_full"] = pa.array(np.full(num_rows, cost.full, np.int64))
    if controls is not None:
        arrays |= _decision_columns(controls, cost)
    for name, key in (("full", "full/end"), ("skiprec", "skiprec/end")):
        if seconds is not None and key in seconds:
            arrays[f"time_{name}_s"] = _scatter(seconds[key], timed_R, num_rows)
    return pa.table(arrays)


def kept_matrix(table: pa.Table) -> NDArray[np.bool_]:
    """`keep_RL`: the learned decisions."""
    keep = table.column("keep").combine_chunks()
    values = keep.values.to_numpy(zero_copy_only=False)
    return np.asarray(values, bool).reshape(len(keep), -1)


def column(table: pa.Table, name: str) -> NDArray[np.float64]:
    """A column as floats; missing values are not numbers."""
    return np.asarray(table.column(name).to_numpy(), np.float64)


def _decision_columns(controls: Controls, cost: ComputeCost) -> dict[str, pa.Array]:
    keep_RL = controls.keep_ARL[POLICY_ARMS.index("skiprec")]
    flat = pa.array(np.ascontiguousarray(keep_RL).ravel())
    arrays = {"keep": pa.FixedSizeListArray.from_arrays(flat, keep_RL.shape[1])}
    for name, arm_RL in zip(POLICY_ARMS, controls.keep_ARL, strict=True):
        learned = name in ("skiprec", "shuffled")
        arrays[f"blocks_kept_{name}"] = pa.array(arm_RL.sum(1).astype(np.int16))
        arrays[f"flops_{name}"] = pa.array(cost.rows(arm_RL, with_policy=learned))
    return arrays


def _scatter(seconds: NDArray[np.float64], timed_R: NDArray[np.int64], num_rows: int) -> pa.Array:
    """The median of each row's rounds at its place, null elsewhere."""
    place = timed_R[np.arange(len(seconds)) % len(timed_R)]
    time_R = np.full(num_rows, np.nan)
    for row in np.unique(place):
        time_R[row] = np.median(seconds[place == row])
    return pa.array(time_R, from_pandas=True)
