"""`[cluster]`: the workers of a run, their resources, and how failures are handled."""

from typing import Literal

from pydantic import Field

from skiprec.config.section import Section


class ClusterConfig(Section):
    """Workers, machines and failures.

    No key of this section changes the model, the data or the loss, so a resumed run may change all
    of them.
    """

    num_workers: int = Field(1, ge=0)
    """Number of training workers. 0: the job's own process trains, without Ray and DeepSpeed."""
    min_workers: int | None = Field(None, ge=1)
    """Smallest number of workers of an elastic run, which takes as many workers, up to
    `num_workers`, as the cluster has room for. None: the run always has `num_workers`."""
    resize_check_s: float = Field(60.0, gt=0)
    """Seconds between two checks whether the cluster has room for more workers of an elastic
    run."""
    threads_per_worker: int = Field(1, ge=1)
    """Number of threads of a worker, which is also its number of CPUs in Ray."""
    resources: dict[str, float] = Field(default_factory=dict)
    """Other Ray resources of each worker: names and amounts."""
    use_gpu: bool = False
    """Whether each worker uses one GPU."""
    room_timeout_s: float = Field(1800.0, ge=0)
    """Seconds that a job waits for machines if the cluster has no room for its workers."""
    zero_stage: Literal[0, 1, 2, 3] = 0
    """ZeRO stage, which decides what DeepSpeed partitions over the workers. 0: nothing. 1:
    optimizer state. 2: gradients, too. 3: parameters, too."""
    offload: Literal["none", "optimizer", "parameters"] = "none"
    """Data that is kept in CPU memory (ZeRO-Offload). `none`: nothing. `optimizer`: the
    optimizer state. `parameters`: the parameters, too."""
    process_group_timeout_s: int = Field(1800, ge=1)
    """Seconds after which an unfinished collective is an error."""
    step_timeout_s: float = Field(900.0, gt=0)
    """Seconds that a step, a validation or a checkpoint may take. A worker that takes longer writes
    its stack traces and ends, which counts as a failure."""
    max_failures: int = Field(2, ge=0)
    """Number of failures of workers after which the run restarts. One more failure ends the run."""
    storage_path: str | None = None
    """Folder or URI (of Arrow or fsspec) to which each checkpoint is copied. None: no copies."""
