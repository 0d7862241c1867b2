"""`[cluster]`: what a run asks of Ray and DeepSpeed."""

from typing import Literal

from pydantic import Field

from skiprec.config.section import Section


class ClusterConfig(Section):
    """Workers, machines and faults.

    No key of this section decides what is trained, so all of them may change when a run resumes.
    """

    num_workers: int = Field(1, ge=0)
    """Number of training workers. 0: the job's own process trains, without Ray and DeepSpeed."""
    min_workers: int | None = Field(None, ge=1)
    """Smallest number of workers of an elastic run, which uses what the cluster has room for. None:
    the run always has `num_workers`."""
    resize_check_s: float = Field(60.0, gt=0)
    """Seconds between two checks whether an elastic run could have more workers."""
    threads_per_worker: int = Field(1, ge=1)
    """Threads of a worker, and the CPUs that it asks Ray for."""
    resources: dict[str, float] = Field(default_factory=dict)
    """Further resources that a worker asks Ray for: name and amount."""
    use_gpu: bool = False
    """Whether each worker has a GPU."""
    room_timeout_s: float = Field(1800.0, ge=0)
    """Seconds that a job waits for machines when the cluster has no room for its workers."""
    zero_stage: Literal[0, 1, 2, 3] = 0
    """What DeepSpeed partitions over the workers. 0: nothing. 1: optimizer state. 2: gradients,
    too. 3: parameters, too."""
    offload: Literal["none", "optimizer", "parameters"] = "none"
    """What is kept in CPU memory (ZeRO-Offload): the optimizer state, or the parameters as well."""
    process_group_timeout_s: int = Field(1800, ge=1)
    """Seconds after which a collective that never finishes is an error."""
    step_timeout_s: float = Field(900.0, gt=0)
    """Seconds that a step, a validation or a checkpoint may take. A worker that takes longer writes
    its stack traces and is restarted."""
    max_failures: int = Field(2, ge=0)
    """Failures of workers after which the run ends instead of restarting."""
    storage_path: str | None = None
    """Folder or URI (of Arrow or fsspec) to which each checkpoint is copied. None: no copies."""
