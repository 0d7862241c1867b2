"""What a program of another library does for `bench_peers.py`: it answers, and times itself.

It reads requests as lines of JSON, `{"histories": FILE.npy, "batch": B}`, and prints a line with
the seconds of each batch. It needs numpy alone, so that it runs in any environment.
"""

import json
import sys
import time
from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray

Answer = Callable[[NDArray[np.int64]], NDArray[np.int64]]  # histories [B, T] -> items [B, 20]


def timed(answer: Answer, items_NT: NDArray[np.int64], batch: int) -> Iterator[float]:
    """Seconds of each batch; a list must hold items of the catalogue."""
    for start in range(0, len(items_NT) - batch + 1, batch):
        rows = items_NT[start : start + batch]
        started = time.perf_counter()
        best = answer(rows)
        yield time.perf_counter() - started
        assert best.shape == (batch, 20), best.shape
        assert (best > 0).all()


def serve(name: str, make_answer: Callable[[int], Answer]) -> None:
    """Answers until the input ends. `make_answer(batch)` compiles a model for batches of a size."""
    print(json.dumps({"name": name}), flush=True)
    models: dict[int, Answer] = {}
    for line in sys.stdin:
        request = json.loads(line)
        batch = request["batch"]
        if batch not in models:
            models[batch] = make_answer(batch)
        seconds = list(timed(models[batch], np.load(request["histories"]), batch))
        print(json.dumps({"seconds": seconds}), flush=True)
