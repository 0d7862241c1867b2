"""Head and top-20 over 54 K items against one bare matrix product of the same shape."""

import statistics
import sys

import torch
from pairing import conditions, interleaved, median_ratio, spread

from cluster.process import keep_freed_memory
from skiprec.ranking import top_items

NUM_ITEMS, WIDTH, TOP = 54_000, 64, 20
BATCHES = (1, 64, 256)


def main() -> int:
    keep_freed_memory()
    print(
        f"head and top-{TOP} of {NUM_ITEMS} items, width {WIDTH}, float32, eager; ratio = its time "
        "/ time of x @ weight.t() alone: 1 is the ideal"
    )
    draw = torch.Generator().manual_seed(0)
    weight_VD = torch.randn(NUM_ITEMS, WIDTH, generator=draw)
    bias_V = torch.randn(NUM_ITEMS, generator=draw)
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
                        "ours": lambda x=x_BD: top_items(x, weight_VD, bias_V, k=TOP),
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
    return 0


if __name__ == "__main__":
    sys.exit(main())
