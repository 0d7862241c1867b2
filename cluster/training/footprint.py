"""What a run needs of each worker, by arithmetic: memory, and bytes on the wire of a step.

The terms are those of DeepSpeed 0.19 as this project configures it; `benchmarks/bench_memory.py`
sets them against what processes really hold. Activations are not among them: they follow the rows
of a pass, not the network.
"""

from dataclasses import dataclass, field

import torch

from skiprec.config.run import RunConfig
from skiprec.network import SkipRecNetwork
from skiprec.training.item_tables import table_masters
from skiprec.training.optim import build_optimizer

MASTER, MOMENTS = 4, 8  # bytes a weight: float32, and Adam's two
MAX_LIVE_WEIGHTS = 10**9  # ZeRO-3 gathers no more at once (its stage3_max_live_parameters)


@dataclass(frozen=True)
class Weights:
    """How many numbers a network has: those that DeepSpeed trains, those that nothing trains, and
    those of sparse tables, with the tables' names."""

    dense: int
    frozen: int
    sparse: int
    item_width: int
    tables: tuple[str, ...]


@dataclass(frozen=True)
class Footprint:
    """Bytes on one worker, by what they are for, while it steps; bytes it sends in a step."""

    held: dict[str, float] = field(default_factory=dict)
    in_step: dict[str, float] = field(default_factory=dict)
    sent: float = 0.0

    @property
    def peak(self) -> float:
        """Held between steps, and what a step adds."""
        return sum(self.held.values()) + sum(self.in_step.values())


def count_weights(config: RunConfig, num_items: int) -> Weights:
    """Builds the network without storage, and counts."""
    with torch.device("meta"):
        network = SkipRecNetwork(config.model, config.policy, num_items)
    build_optimizer(network, config.training)  # takes sparse tables out
    dense = sum(p.numel() for p in network.parameters() if p.requires_grad)
    frozen = sum(p.numel() for p in network.parameters() if not p.requires_grad)
    tables = table_masters(network)
    sparse = sum(table.numel() for table in tables.values())
    return Weights(dense, frozen, sparse, config.model.width, tuple(tables))


def touched_rows(config: RunConfig, weights: Weights, world_size: int, positions: int) -> int:
    """Rows of all sparse tables that one worker's part of a step reads, if no item came twice."""
    read = -(-config.training.global_batch_rows // world_size) * positions
    negatives = config.loss.num_negatives or 0
    return sum(read + (negatives if name.startswith("head.") else 0) for name in weights.tables)


def footprint(config: RunConfig, weights: Weights, world_size: int, touched: int = 0) -> Footprint:
    """Of one of `world_size` workers.

    Args:
        touched: of `touched_rows`.
    """
    n, stage, dense, frozen = world_size, config.cluster.zero_stage, weights.dense, weights.frozen
    width = 2 if config.training.precision == "bf16" else 4
    share = dense / n
    sparse_bytes = weights.sparse * (MASTER + MOMENTS + (2 if width == 2 else 0))
    row_bytes = 4 * weights.item_width + 8  # a gradient in float32, and which row
    sent_sparse = (n - 1) * touched * row_bytes
    ring = (n - 1) / n * dense * width  # one pass of all weights or gradients around the ring
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
            # In the parts' own shapes, and in bf16 once more in one piece before float32.
            step |= {"gradients": share * (width if width == 4 else 2 * width)}
        sent = 2 * ring
        if stage == 3:  # all weights are gathered for the forward and for the backward pass
            sent = ring + 2 * (n - 1) / n * (dense + frozen) * width
    if sparse_bytes:
        held["sparse tables"] = sparse_bytes
    if config.cluster.offload != "none":
        for what in ("masters", "moments", "copy of gradients"):
            held.pop(what, None)
            step.pop(what, None)
    if config.cluster.offload == "parameters":
        held.pop("weights")
    return Footprint(held, step, sent + sent_sparse)
