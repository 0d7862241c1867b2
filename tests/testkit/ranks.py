"""Runs a function on several ranks: real processes with a gloo group, without Ray."""

import os
import sys
import tempfile
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp


def run_ranks(function: Callable[..., Any], world_size: int, *args: Any) -> list[Any]:
    """The results of `function(*args)` on each rank, by rank.

    The function must be importable and return data that torch can save. An error of a rank ends the
    run with its traceback; a rank that hangs in a collective fails after two minutes.
    """
    with tempfile.TemporaryDirectory() as folder:
        mp.start_processes(
            _rank_main,
            args=(world_size, folder, function, args),
            nprocs=world_size,
            start_method="spawn",
        )
        return [
            torch.load(Path(folder) / f"rank-{rank}.pt", weights_only=False)
            for rank in range(world_size)
        ]


def _rank_main(
    rank: int, world_size: int, folder: str, function: Callable[..., Any], args: tuple[Any, ...]
) -> None:
    torch.set_num_threads(1)
    os.environ |= {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(world_size),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": "0",
    }
    dist.init_process_group(
        "gloo",
        init_method=f"file://{folder}/rendezvous",
        rank=rank,
        world_size=world_size,
        timeout=timedelta(seconds=120),
    )
    try:
        torch.save(function(*args), Path(folder) / f"rank-{rank}.pt")
        dist.barrier()
    finally:
        dist.destroy_process_group()
    # DeepSpeed keeps its groups, and with them gloo's threads. Where one of these releases a tensor
    # while the interpreter shuts down, the process aborts (seen in 2 of 40 starts; pytorch#179291).
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)
