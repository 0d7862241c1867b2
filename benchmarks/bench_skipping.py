"""Measures gathered against dense execution: the share of the ideal speedup 1 / keep that is real.

On a machine with a GPU it also measures there, up to 128 blocks, in PyTorch, with decisions that
are nested, and in the Triton kernel; those rows have no bound.
"""

import statistics
import sys
from collections.abc import Iterator
from functools import partial

import torch
from pairing import conditions, interleaved, median_ratio, verdict

from cluster.machine.process import keep_freed_memory
from skiprec.config.model import ModelConfig
from skiprec.network import SkipRecNetwork
from skiprec.policy.kinds import policy_section
from skiprec.types import Execution, History, KeepDecision

WINDOW, KEEP = 20, 0.5
SMALL = ModelConfig(num_blocks=16, width=64)
BOUNDS = {1: 0.8, 64: 0.7, 256: 0.8}
ON_GPU = (SMALL, ModelConfig(num_blocks=64, width=64), ModelConfig(num_blocks=128, width=256))
GPU_ROWS = (1, 64, 256, 1024)


def measure(model: ModelConfig, num_rows: int, repeats: int) -> tuple[float, str, float, float]:
    """(median share of the ideal speedup, its quartiles, drawn keep rate, seconds when dense)."""
    network = SkipRecNetwork(model, policy_section("none"), num_items=100).eval()
    network.reset_parameters(0)
    generator = torch.Generator().manual_seed(num_rows)
    items_BT = torch.randint(1, 101, (num_rows, WINDOW - 1), generator=generator)
    history: History = network.embed(items_BT, torch.arange(num_rows))

    def run(decision: KeepDecision | None, execution: Execution) -> None:
        network.encode(history, decision, execution)

    shares, kept, dense_s = [], [], []
    for _ in range(repeats):
        keep_BL = (torch.rand(num_rows, model.num_blocks, generator=generator) < KEEP).float()
        decision = KeepDecision(keep_BL, None)
        times = interleaved(
            {
                "dense": lambda: run(None, "dense"),
                "gathered": lambda d=decision: run(d, "gathered"),
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


def measure_on_gpu(model: ModelConfig, num_rows: int) -> Iterator[str]:
    """Lines with the milliseconds of `dense` and the speedup of kept blocks over it.

    Each pair has one executor: PyTorch, PyTorch with nested decisions, the Triton kernel.
    """
    from skiprec.inference.triton_blocks import why_not_triton, with_triton_blocks

    network = SkipRecNetwork(model, policy_section("none"), num_items=100).eval()
    network.reset_parameters(0)
    network.to("cuda")
    generator = torch.Generator().manual_seed(num_rows)
    items_BT = torch.randint(1, 101, (num_rows, WINDOW - 1), generator=generator)
    history = network.embed(items_BT.cuda(), torch.arange(num_rows, device="cuda"))
    shape = (num_rows, model.num_blocks)
    any_BL = (torch.rand(shape, generator=generator) < KEEP).float()
    depth_B1 = any_BL.sum(1, keepdim=True)
    nested_BL = (torch.arange(model.num_blocks) < depth_B1).float()
    networks = {"PyTorch": network}
    if why_not_triton(network) is None:
        networks["Triton"] = with_triton_blocks(network)
    kinds = {
        "any": KeepDecision(any_BL.cuda(), None),
        "nested": KeepDecision(nested_BL.cuda(), None),
    }

    def run(chosen: SkipRecNetwork, decision: KeepDecision | None) -> None:
        chosen.encode(history, decision, "dense" if decision is None else "gathered")
        torch.cuda.synchronize()

    for name, chosen in networks.items():
        arms = {"dense": partial(run, chosen, None)}
        arms |= {kind: partial(run, chosen, decision) for kind, decision in kinds.items()}
        times = interleaved(arms, repeats=20, warmup=3)
        dense_ms = statistics.median(times["dense"]) * 1e3
        ratios = "  ".join(
            f"{kind} {median_ratio(times['dense'], times[kind]):.2f}x" for kind in kinds
        )
        yield f"  batch {num_rows:4d}, {name:7s}: dense {dense_ms:.2f} ms; blocks kept, {ratios}"


def line(num_rows: int, share: float, quartiles: str, kept: float, dense_s: float) -> str:
    return (
        f"  batch {num_rows:4d}: share {share:.2f} [{quartiles}]  speedup {share / kept:.2f} at "
        f"keep {kept:.2f}, dense {dense_s * 1e3:.2f} ms"
    )


def main() -> int:
    keep_freed_memory()
    print(
        f"blocks only, gathered against dense: window {WINDOW}; each block kept with probability "
        f"{KEEP} a row, float32, eager\n"
        "share = (dense time / gathered time) * keep rate: 1 is the ideal"
    )
    failed = False
    with torch.inference_mode():
        for threads in (1, 2):
            torch.set_num_threads(threads)
            print(conditions(blocks=SMALL.num_blocks, width=SMALL.width))
            for num_rows, bound in BOUNDS.items():
                measured = measure(SMALL, num_rows, repeats=60)
                failed |= measured[0] < bound
                print(f"{line(num_rows, *measured)}  {verdict(measured[0], bound)}")
        for model in ON_GPU if torch.cuda.is_available() else ():
            gpu = torch.cuda.get_device_name()
            print(conditions(gpu=gpu, blocks=model.num_blocks, width=model.width))
            for num_rows in GPU_ROWS:
                for text in measure_on_gpu(model, num_rows):
                    print(text, flush=True)
        if not torch.cuda.is_available():
            print("on a GPU, PyTorch and the Triton kernel: not measured, there is no GPU")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
