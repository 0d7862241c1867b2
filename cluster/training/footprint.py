"""Computes the memory and the network traffic that a run needs per worker, by arithmetic.

The terms are those of DeepSpeed 0.19 as this project configures it. `benchmarks/bench_memory.py`
compares them with the memory that processes really hold. Activations are left out, because they
depend on the rows of a pass and not only on the network.
"""

from dataclasses import dataclass, field

import torch

from skiprec.config.run import RunConfig
from skiprec.network import SkipRecNetwork
from skiprec.training.item_tables import table_masters
from skiprec.training.optim import build_optimizer

MASTER, MOMENTS = 4, 8  # bytes per weight: the float32 master, and Adam's two moments
MAX_LIVE_WEIGHTS = 10**9  # ZeRO-3 gathers no more weights at once (stage3_max_live_parameters)


@dataclass(frozen=True)
class Weights:
    """The number of weights of a network, by how they are trained."""

    dense: int
    """Weights that DeepSpeed trains."""
    frozen: int
    """Weights that are not trained."""
    sparse: int
    """Weights of the item tables with sparse updates, all tables together."""
    item_width: int
    """Width of a row of an item table."""
    tables: tuple[str, ...]
    """Names of the item tables with sparse updates."""


@dataclass(frozen=True)
class Footprint:
    """Bytes of memory and of network traffic on one worker."""

    held: dict[str, float] = field(default_factory=dict)
    """Bytes held between two steps, by purpose."""
    in_step: dict[str, float] = field(default_factory=dict)
    """Bytes that a step adds, by purpose."""
    sent: float = 0.0
    """Bytes that the worker sends in one step."""

    @property
    def peak(self) -> float:
        """Bytes held between steps plus the bytes that a step adds."""
        return sum(self.held.values()) + sum(self.in_step.values())


def count_weights(config: RunConfig, num_items: int) -> Weights:
    """Counts a network's weights without allocating them."""
    with torch.device("meta"):
        network = SkipRecNetwork(config.model, config.policy, num_items)
    build_optimizer(
        network, config.training
    )  # removes the sparse tables from the trained parameters
    dense = sum(p.numel() for p in network.parameters() if p.requires_grad)
    frozen = sum(p.numel() for p in network.parameters() if not p.requires_grad)
    tables = table_masters(network)
    sparse = sum(table.numel() for table in tables.values())
    return Weights(dense, frozen, sparse, config.model.width, tuple(tables))


def touched_rows(config: RunConfig, weights: Weights, world_size: int, positions: int) -> int:
    """Rows of all sparse tables that one worker reads in a step, if no item occurs twice."""
    read = -(-config.training.global_batch_rows // world_size) * positions
    negatives = (config.loss.num_negatives or 0) * config.loss.num_sets
    return sum(read + (negatives if name.startswith("head.") else 0) for name in weights.tables)


def footprint(config: RunConfig, weights: Weights, world_size: int, touched: int = 0) -> Footprint:
    """The footprint of one of `world_size` workers.

    Args:
        touched: rows of sparse tables that the worker reads in a step, from `touched_rows`.
    """
    n, stage, dense, frozen = world_size, config.cluster.zero_stage, weights.dense, weights.frozen
    width = 2 if config.training.precision == "bf16" else 4
    share = dense / n
    sparse_bytes = weights.sparse * (MASTER + MOMENTS + (2 if width == 2 else 0))
    row_bytes = 4 * weights.item_width + 8  # a gradient in float32, and the row's index
    sent_sparse = (n - 1) * touched * row_bytes
    ring = (n - 1) / n * dense * width  # all weights or gradients once around
    held: dict[str, float] = {}
    step: dict[str, float] = {}
    if stage == 0:
        held |= {"weights": (dense + frozen) * width, "moments": dense * MOMENTS}
        held |= {"masters": dense * MASTER} if width == 2 else {}
        step |= {"gradients": dense * width, "copy of gradients": dense * MASTER}
        sent = 2 * ring
    else:
        held |= {"masters": share * MASTER, "moments": share * MOMENTS}
        step |= {"copy of gradients": share * MASTER}
        if stage == 3:
            held |= {"weights": (dense + frozen) / n * width, "gradients": share * width}
            step |= {"gathered weights": min(dense + frozen, MAX_LIVE_WEIGHTS) * width}
        else:
            held |= {"weights": (dense + frozen) * width}
            # Gradients in the parameters' shapes; in bf16 also a flat copy before float32.
            step |= {"gradients": share * (width if width == 4 else 2 * width)}
        sent = 2 * ring
        if stage == 3:  # all weights are gathered for the forward and for the backward pass
            sent = ring + 2 * (n - 1) / n * (dense + frozen) * width
    if sparse_bytes:
        held["sparse tables"] = sparse_bytes
    if config.cluster.offload != "none":
        for purpose in ("masters", "moments", "copy of gradients"):
            held.pop(purpose, None)
            step.pop(purpose, None)
    if config.cluster.offload == "parameters":
        held.pop("weights")
    return Footprint(held, step, sent + sent_sparse)
