"""Measures head and top-20 over 54 K items against one bare matrix product of the same shape."""

import statistics
import sys

import torch
from pairing import conditions, interleaved, median_ratio, spread

from cluster.machine.process import keep_freed_memory
from skiprec.evaluation.measure.tiles import TILE_ROWS
from skiprec.ranking import target_ranks, top_items
from skiprec.scores import DotProduct

NUM_ITEMS, WIDTH, TOP = 54_000, 64, 20
BATCHES = (1, 64, 256)
CATALOGUES = (10_000, 100_000, 1_000_000)


def main() -> int:
    keep_freed_memory()
    print(
        f"head and top-{TOP} of {NUM_ITEMS} items, width {WIDTH}, float32, eager; ratio = its time "
        "/ time of x @ weight.t() alone: 1 is the ideal"
    )
    draw = torch.Generator().manual_seed(0)
    weight_VD = torch.randn(NUM_ITEMS, WIDTH, generator=draw)
    bias_V = torch.randn(NUM_ITEMS, generator=draw)
    scores = DotProduct(weight_VD, bias_V)
    with torch.inference_mode():
        for threads in (1, 2):
            torch.set_num_threads(threads)
            print(conditions())
            for num_rows in BATCHES:
                x_BD = torch.randn(num_rows, WIDTH, generator=draw)
                seconds = interleaved(
                    {
                        "product": lambda x=x_BD: x @ weight_VD.t(),
                        "plain": lambda x=x_BD: (x @ weight_VD.t() + bias_V).topk(TOP, dim=1),
                        "ours": lambda x=x_BD: top_items(x, scores, k=TOP),
                    },
                    repeats=40 if num_rows < 256 else 15,
                )
                ours, plain = seconds["ours"], seconds["plain"]
                product = seconds["product"]
                print(
                    f"  batch {num_rows:4d}: ratio {median_ratio(ours, product):.2f} "
                    f"[{spread(ours, product)}]; product, add and topk as written "
                    f"{median_ratio(plain, product):.2f} [{spread(plain, product)}]; "
                    f"product {statistics.median(product) * 1e3:.2f} ms"
                )
        print(
            f"an evaluated user's share of the catalogue: the rank of its target, in tiles of "
            f"{TILE_ROWS} rows; {conditions()}"
        )
        for num_items in CATALOGUES:
            measure_ranks(num_items)
    return 0


def measure_ranks(num_items: int) -> None:
    """Prints the time to rank the targets of one tile, per user and per item."""
    draw = torch.Generator().manual_seed(0)
    x_BD = torch.randn(TILE_ROWS, WIDTH, generator=draw)
    weight_VD = torch.randn(num_items, WIDTH, generator=draw)
    scores = DotProduct(weight_VD, torch.zeros(num_items))
    target_B = torch.randint(1, num_items + 1, (TILE_ROWS,), generator=draw)

    def product() -> None:
        for start in range(0, num_items, 8192):  # in chunks, since the whole would not fit a cache
            x_BD @ weight_VD[start : start + 8192].t()

    seconds = interleaved(
        {"product": product, "ranks": lambda: target_ranks(x_BD, scores, target_B=target_B)},
        repeats=9,
    )
    per_user = statistics.median(seconds["ranks"]) / TILE_ROWS
    print(
        f"  {num_items:9,d} items: {per_user * 1e6:8.1f} us a user, "
        f"{per_user / num_items * 1e9:.3f} ns an item; "
        f"{median_ratio(seconds['ranks'], seconds['product']):.2f} of the bare product's time"
    )


if __name__ == "__main__":
    sys.exit(main())
