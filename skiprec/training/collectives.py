"""The collectives of a training step. Every rank must call each of them equally often."""

from typing import Protocol

import torch
import torch.distributed as dist
from torch import Tensor


class Collectives(Protocol):
    """The collectives of one rank of a run."""

    rank: int
    world_size: int

    def sum(self, value: Tensor) -> Tensor:
        """The elementwise sum over all ranks; the result is the same on each rank."""
        ...

    def gather(self, rows: Tensor) -> Tensor:
        """The rows of rank 0, then of rank 1, …. Every rank must bring the same number of rows."""
        ...


class SingleProcess:
    """Collectives for a run with one rank."""

    rank = 0
    world_size = 1

    def sum(self, value: Tensor) -> Tensor:
        """The value itself."""
        return value

    def gather(self, rows: Tensor) -> Tensor:
        """The rows themselves."""
        return rows


class ProcessGroup:
    """Collectives over the default group of torch.distributed, which the caller has initialised."""

    def __init__(self) -> None:
        self.rank = dist.get_rank()
        self.world_size = dist.get_world_size()

    def sum(self, value: Tensor) -> Tensor:
        """See `Collectives`; one all-reduce."""
        value = value.clone()
        dist.all_reduce(value)
        return value

    def gather(self, rows: Tensor) -> Tensor:
        """See `Collectives`; one all-gather."""
        parts = [torch.empty_like(rows) for _ in range(self.world_size)]
        dist.all_gather(parts, rows.contiguous())
        return torch.cat(parts)
