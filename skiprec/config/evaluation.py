"""`[evaluation]`: accuracy in parallel, then times on a machine that does nothing else."""

from typing import Literal

from pydantic import Field, PositiveInt

from skiprec.config.section import Section


class EvaluationConfig(Section):
    """The two passes of the evaluator."""

    split: Literal["train", "validation", "test"] = "test"
    """Split whose rows are evaluated."""
    num_workers: int = Field(1, ge=1)
    """Number of workers of the accuracy pass; the results are the same for any number."""
    batch_rows: int = Field(256, ge=1)
    """Rows of one unit of work; the results are the same for any number."""
    exclude_seen: bool = False
    """Whether items of the row's history are left out of the ranking."""
    max_rows: int | None = Field(None, ge=1)
    """Most rows that are evaluated, spread evenly over the split. None: all of them."""
    keep_frac: float | None = Field(None, gt=0, le=1)
    """Share of block calls that is kept in serving. It sets the knob of a policy that has one
    anew, on validation rows. None: the setting of training."""
    timing_batches: tuple[PositiveInt, ...] = (1, 64, 256)
    """Batch sizes, in rows, that are timed. Empty: no times are taken, as on a busy machine."""
    timing_users: int = Field(256, ge=1)
    """Rows of the timing sample, spread evenly over the evaluated rows."""
    timing_repeats: int = Field(15, ge=3)
    """Least number of timed rounds of each batch size."""
