"""What a training step needs of the other ranks. Every rank calls these equally often."""

from typing import Protocol

import torch
import torch.distributed as dist
from torch import Tensor


class Collectives(Protocol):
    """The ranks of a run, as seen from one of them."""

    rank: int
    world_size: int

    def sum(self, value: Tensor) -> Tensor:
        """Elementwise sum over ranks, the same on each."""
        ...

    def gather(self, rows: Tensor) -> Tensor:
        """Rank 0's rows, then rank 1's, …; each rank brings equally many."""
        ...


class SingleProcess:
    """A world of one."""

    rank = 0
    world_size = 1

    def sum(self, value: Tensor) -> Tensor:
        """The value itself."""
        return value

    def gather(self, rows: Tensor) -> Tensor:
        """The rows themselves."""
        return rows


class ProcessGroup:
    """The default group of torch.distributed, initialised by the caller."""

    def __init__(self) -> None:
        self.rank = dist.get_rank()
        self.world_size = dist.get_world_size()

    def sum(self, value: Tensor) -> Tensor:
        """One all-reduce."""
        value = value.clone()
        dist.all_reduce(value)
        return value

    def gather(self, rows: Tensor) -> Tensor:
        """One all-gather."""
        parts = [torch.empty_like(rows) for _ in range(self.world_size)]
        dist.all_gather(parts, rows.contiguous())
        return torch.cat(parts)
