"""Measures full softmax in chunks (F.linear_cross_entropy), in its plain form, and sampled."""

import statistics
import sys
from functools import partial

import torch
import torch.nn.functional as F
from pairing import conditions, interleaved, median_ratio, spread
from torch import Tensor

from cluster.machine.process import keep_freed_memory
from skiprec.scores import DotProduct
from skiprec.training.losses import Negatives, draw_negatives, full_softmax, sampled_softmax

POSITIONS, WIDTH, NEGATIVES = 128 * 19, 64, 1000


def plain(x_ND: Tensor, scores: DotProduct, *, target_N: Tensor) -> Tensor:
    score_NV = F.linear(x_ND, scores.weight_VD, scores.bias_V)
    return F.cross_entropy(score_NV, target_N - 1, reduction="sum")


def measure(num_items: int) -> None:
    generator = torch.Generator().manual_seed(0)
    x_ND = torch.randn(POSITIONS, WIDTH, generator=generator, requires_grad=True)
    weight_VD = torch.randn(num_items, WIDTH, generator=generator).requires_grad_()
    bias_V = torch.zeros(num_items, requires_grad=True)
    target_N = torch.randint(1, num_items + 1, (POSITIONS,), generator=generator)
    item_S = draw_negatives(1, NEGATIVES, num_items, torch.device("cpu"))
    forms = {
        "plain": partial(plain, target_N=target_N),
        "chunked": partial(full_softmax, target_N=target_N),
        "sampled": partial(sampled_softmax, target_N=target_N, negatives=Negatives(item_S[None])),
    }

    def run(name: str) -> None:
        loss = forms[name](x_ND, DotProduct(weight_VD, bias_V))
        torch.autograd.grad(loss, (x_ND, weight_VD, bias_V))

    times = interleaved({name: partial(run, name) for name in forms}, repeats=9)
    held_mb = POSITIONS * num_items * 4 / 2**20
    flops = 3 * 2 * POSITIONS * WIDTH * num_items
    for name, seconds in times.items():
        rate = (
            "" if name == "sampled" else f", {flops / statistics.median(seconds) / 1e9:.0f} GFLOP/s"
        )
        print(
            f"  {num_items:6d} items, {name:8s}: {statistics.median(seconds) * 1e3:7.1f} ms, "
            f"{median_ratio(seconds, times['plain']):.2f} of plain "
            f"[{spread(seconds, times['plain'])}]{rate}"
        )
    print(f"  {num_items:6d} items: plain holds {held_mb:.0f} MB of scores, twice in backward")


def main() -> int:
    keep_freed_memory()
    print(
        f"loss, forward and backward: {POSITIONS} positions, width {WIDTH}, float32, "
        f"{NEGATIVES} negatives when sampled; {conditions()}"
    )
    for num_items in (4_000, 28_000, 54_000):
        measure(num_items)
    return 0


if __name__ == "__main__":
    sys.exit(main())
