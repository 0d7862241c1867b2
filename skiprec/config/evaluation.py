"""`[evaluation]`: which rows are scored, and which batch sizes are timed."""

from typing import Literal

from pydantic import Field, PositiveInt

from skiprec.config.section import Section


class EvaluationConfig(Section):
    """Accuracy on parallel workers, then times on one idle machine."""

    split: Literal["train", "validation", "test"] = "test"
    """Split whose rows are evaluated."""
    num_workers: int = Field(1, ge=0)
    """Number of workers of the accuracy pass; it does not affect the results. 0: the job's own
    process evaluates and takes the times, without Ray."""
    batch_rows: int = Field(256, ge=1)
    """Number of rows in one unit of work. It does not affect the results."""
    exclude_seen: bool = False
    """Whether the ranking of a row leaves out the items of its history."""
    max_rows: int | None = Field(None, ge=1)
    """Largest number of evaluated rows, spread evenly over the split. None: all its rows."""
    keep_frac: float | None = Field(None, gt=0, le=1)
    """Largest share of block calls that serving keeps, for a policy that predicts costs. The
    validation rows set its price anew to reach this share. None: the price from training."""
    executor: Literal["native", "native_bf16", "triton", "torch"] = "native"
    """Executor whose times are taken. `native`: the C++ library, whose lists are also compared with
    PyTorch's on every evaluated row; where it is not built or does not know the network, PyTorch,
    and the report says why. `native_bf16`: the same with the products of blocks in bf16, for
    processors that have them; the report has the accuracy of its lists. `triton`: PyTorch on a GPU,
    with the blocks in one Triton kernel (NextItNet and NextItNet+, widths up to 128; not measured
    on a GPU so far). `torch`: PyTorch."""
    timing_batches: tuple[PositiveInt, ...] = (1, 64, 256)
    """Batch sizes, in rows, that are timed. Empty: no times are taken, for a busy machine."""
    timing_users: int = Field(256, ge=1)
    """Number of rows in the timing sample, spread evenly over the evaluated rows."""
    timing_repeats: int = Field(15, ge=3)
    """Smallest number of timed rounds for each batch size."""
