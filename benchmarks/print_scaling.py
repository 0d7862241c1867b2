"""Prints the tables of docs/scaling.md, by arithmetic; nothing is timed.

The terms are those of cluster/training/footprint.py and the assumptions below.
"""

import sys
from collections.abc import Iterator

import torch

from cluster.training.footprint import Footprint, Weights, count_weights, footprint, touched_rows
from skiprec.config.files import parse_config
from skiprec.config.model import ModelConfig
from skiprec.config.run import RunConfig
from skiprec.network import SkipRecNetwork
from skiprec.policy.kinds import policy_section

DEPTHS, WIDTHS, STAGES = (64, 128, 256), (256, 512, 1024, 2048), (0, 1, 2, 3)
CATALOGUES = (54_000, 1_000_000, 10_000_000, 100_000_000)
WORKERS, ROWS, POSITIONS = 8, 256, 19
# Assumptions for an 80 GB accelerator and its network, which we did not measure. FLOPS_PER_S is the
# rate that a step reaches.
MEMORY_GB, FLOPS_PER_S, WIRE_BYTES_PER_S, HOP_S = 80, 400e12, 25e9, 10e-6
NEGATIVES = 1000


def config(num_blocks: int, width: int, stage: int, is_sparse: bool = False) -> RunConfig:
    training = {"precision": "bf16", "global_batch_rows": WORKERS * ROWS}
    if is_sparse:
        training["item_optimizer"] = "sparse_adam"
    return parse_config(
        {
            "name": "scaling",
            "data": {"path": "unused"},
            "model": {"num_blocks": num_blocks, "width": width},
            "loss": {"kind": "sampled", "num_negatives": NEGATIVES},
            "training": training,
            "cluster": {"num_workers": WORKERS, "zero_stage": stage},
        },
        "scaling",
    )


def gb(size: float) -> str:
    return f"{size / 1e9:,.0f}" if size >= 1e11 else f"{size / 1e9:.3g}"


def saved_by_a_block() -> float:
    """Number of values that a block keeps for its backward pass, per position and channel."""
    width, sizes = 64, []
    for num_blocks in (1, 2):
        network = SkipRecNetwork(
            ModelConfig(num_blocks=num_blocks, width=width), policy_section("none"), 10
        )
        network.reset_parameters(0)
        own = {p.data_ptr() for p in network.parameters()}
        kept: dict[int, int] = {}

        def pack(tensor: torch.Tensor, kept=kept, own=own) -> torch.Tensor:
            if tensor.data_ptr() not in own:
                kept[tensor.data_ptr()] = tensor.untyped_storage().nbytes() // 4
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            history = network.embed(torch.ones(32, POSITIONS, dtype=torch.int64), torch.arange(32))
            network.encode(history, None, "dense").sum()
        sizes.append(sum(kept.values()))
    return (sizes[1] - sizes[0]) / (32 * POSITIONS * width)


def row(*cells: object) -> str:
    return "| " + " | ".join(str(cell) for cell in cells) + " |"


def header(*cells: str) -> Iterator[str]:
    yield row(*cells)
    yield row(*("---:" for _ in cells))


def by_stage(num_blocks: int, width: int, weights: Weights) -> list[Footprint]:
    return [footprint(config(num_blocks, width, z), weights, WORKERS) for z in STAGES]


def fits(size: float) -> str:
    return gb(size) if size / 1e9 < MEMORY_GB else f"({gb(size)})"


def depth_and_width() -> Iterator[str]:
    kept = saved_by_a_block()
    yield from header(
        "blocks",
        "width",
        "M weights",
        *(f"ZeRO {z}" for z in STAGES),
        "activations",
        "recomputed",
        *(f"sent {z}" for z in STAGES if z != 2),
        "step s",
        "sending s",
    )
    for num_blocks in DEPTHS:
        for width in WIDTHS:
            weights = count_weights(config(num_blocks, width, 0), CATALOGUES[0])
            footprints = by_stage(num_blocks, width, weights)
            one = ROWS * POSITIONS * width * 2
            in_blocks = weights.dense - 2 * CATALOGUES[0] * width
            flops = 6 * in_blocks * ROWS * POSITIONS
            yield row(
                num_blocks,
                width,
                f"{weights.dense / 1e6:,.0f}",
                *(fits(one_stage.peak) for one_stage in footprints),
                gb(kept * num_blocks * one),
                gb((num_blocks + kept) * one),
                *(gb(footprints[z].sent) for z in STAGES if z != 2),
                f"{flops / FLOPS_PER_S:.3f}",
                f"{footprints[0].sent / WIRE_BYTES_PER_S:.3f}",
            )


def catalogue(num_blocks: int = 64, width: int = 256) -> Iterator[str]:
    yield from header(
        "items",
        "M weights in tables",
        *(f"AdamW, ZeRO {z}" for z in STAGES),
        "sparse_adam, ZeRO 1",
        f"tables sharded {WORKERS} ways",
        "and row-wise moments",
        "sent: AdamW, ZeRO 1",
        "sent: sparse_adam",
    )
    for num_items in CATALOGUES:
        dense = count_weights(config(num_blocks, width, 0), num_items)
        footprints = by_stage(num_blocks, width, dense)
        settings = config(num_blocks, width, 1, is_sparse=True)
        sparse = count_weights(settings, num_items)
        touched = touched_rows(settings, sparse, WORKERS, POSITIONS)
        light = footprint(settings, sparse, WORKERS, touched)
        tables = light.held["sparse tables"]
        rest = light.peak - tables
        # Besides the float32 master and its bf16 copy, a row-wise optimizer has one moment per row.
        row_wise = sparse.sparse * (4 + 2) + sparse.sparse / width * 4
        yield row(
            f"{num_items:,}",
            f"{sparse.sparse / 1e6:,.0f}",
            *(fits(one.peak) for one in footprints),
            fits(light.peak),
            fits(rest + tables / WORKERS),
            fits(rest + row_wise / WORKERS),
            gb(footprints[1].sent),
            gb(light.sent),
        )


def workers(num_blocks: int = 128, width: int = 512) -> Iterator[str]:
    """Weak scaling without overlap of computing and sending; a ring of N workers has N - 1 hops."""
    weights = count_weights(config(num_blocks, width, 0), CATALOGUES[0])
    in_blocks = weights.dense - 2 * CATALOGUES[0] * width
    counts = (2, 8, 64, 512, 4096)
    yield from header("rows a worker", "ZeRO", *(f"{n:,} workers" for n in counts))
    for num_rows in (256, 1024, 4096):
        compute_s = 6 * in_blocks * num_rows * POSITIONS / FLOPS_PER_S
        for stage, rings in ((1, 2), (3, 3)):
            cells = []
            for n in counts:
                sent = footprint(config(num_blocks, width, stage), weights, n).sent
                sending_s = sent / WIRE_BYTES_PER_S + rings * (n - 1) * HOP_S
                cells.append(f"{compute_s / (compute_s + sending_s):.2f}")
            yield row(num_rows, stage, *cells)


TABLES = {"depth and width": depth_and_width, "catalogue": catalogue, "workers": workers}


def main() -> int:
    for name, table in TABLES.items():
        print(f"<!-- {name} -->")
        print("\n".join(table()))
        print("<!-- end -->\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
