"""Gathered against dense execution of the blocks: how much of the ideal 1 / keep is real."""

import statistics
import sys

import torch
from pairing import conditions, interleaved, median_ratio, verdict

from cluster.process import keep_freed_memory
from skiprec.config import ModelConfig
from skiprec.network import SkipRecNetwork
from skiprec.policy_config import NoPolicy
from skiprec.types import History, KeepDecision

NUM_BLOCKS, WIDTH, WINDOW, KEEP = 16, 64, 20, 0.5
BOUNDS = {1: 0.8, 64: 0.7, 256: 0.8}


def measure(num_rows: int, repeats: int) -> tuple[float, str, float, float]:
    """Median share of the ideal, its quartiles, the keep rate that was drawn, dense seconds."""
    network = SkipRecNetwork(
        ModelConfig(num_blocks=NUM_BLOCKS, width=WIDTH), NoPolicy(), num_items=100
    ).eval()
    network.reset_parameters(0)
    generator = torch.Generator().manual_seed(num_rows)
    items_BT = torch.randint(1, 101, (num_rows, WINDOW - 1), generator=generator)
    history: History = network.embed(items_BT, torch.arange(num_rows))
    shares, kept, dense_s = [], [], []
    for _ in range(repeats):
        keep_BL = (torch.rand(num_rows, NUM_BLOCKS, generator=generator) < KEEP).float()
        decision = KeepDecision(keep_BL, None)
        times = interleaved(
            {
                "dense": lambda: network.encode(history, None, "dense"),
                "gathered": lambda d=decision: network.encode(history, d, "gathered"),
                "masked": lambda d=decision: network.encode(history, d, "masked"),
            },
            repeats=5,
            warmup=1,
        )
        rate = keep_BL.mean().item()
        shares.append(median_ratio(times["dense"], times["gathered"]) * rate)
        kept.append(rate)
        dense_s.append(statistics.median(times["dense"]))
    low, _, high = statistics.quantiles(shares, n=4)
    return (
        statistics.median(shares),
        f"{low:.2f}..{high:.2f}",
        statistics.mean(kept),
        statistics.median(dense_s),
    )


def main() -> int:
    keep_freed_memory()
    print(
        f"blocks only, gathered against dense: {NUM_BLOCKS} blocks, width {WIDTH}, window {WINDOW}"
        f"; each block kept with probability {KEEP} a row, float32, eager\n"
        "share = (dense time / gathered time) * keep rate: 1 is the ideal"
    )
    failed = False
    with torch.inference_mode():
        for threads in (1, 2):
            torch.set_num_threads(threads)
            print(conditions())
            for num_rows, bound in BOUNDS.items():
                share, quartiles, kept, dense_s = measure(num_rows, repeats=60)
                failed |= share < bound
                print(
                    f"  batch {num_rows:4d}: share {share:.2f} [{quartiles}] "
                    f"{verdict(share, bound)}"
                    f"  speedup {share / kept:.2f} at keep {kept:.2f}, dense {dense_s * 1e3:.2f} ms"
                )
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
