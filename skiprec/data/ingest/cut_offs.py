"""Finds the times of the two cut-offs of the split by_time, which may be given as shares."""

from collections.abc import Callable, Iterable

import numpy as np
import numpy.typing as npt

from skiprec.data.ingest.profiling import iso_text
from skiprec.data.splits import ByTime, milliseconds_of

Longs = npt.NDArray[np.int64]

_BINS = 4_096


def find_cut_offs(config: ByTime, read_times: Callable[[], Iterable[Longs]]) -> tuple[int, int]:
    """`(validation, test)`, in milliseconds since 1970.

    Args:
        read_times: the times of all kept interactions, in pieces; it is called several times.

    Raises:
        ValueError: the cut-offs are not in this order, or nothing lies before the first one.
    """
    first, second = (
        milliseconds_of(cut_off) if isinstance(cut_off, str) else time_at_share(cut_off, read_times)
        for cut_off in (config.validation_from, config.test_from)
    )
    if first >= second:
        raise ValueError(
            f"split.validation_from {config.validation_from} and split.test_from "
            f"{config.test_from} are the times {first} and {second} ms; expected the first to be "
            "earlier: a date lies behind a share, too many interactions share one time, or the "
            "shares are too close"
        )
    earliest = min(int(ms_N.min()) for ms_N in read_times() if len(ms_N))
    if first <= earliest:
        raise ValueError(
            f"split.validation_from {config.validation_from} leaves nothing to train on: the "
            f"interactions begin at {iso_text(earliest)}; expected a later cut-off"
        )
    return first, second


def time_at_share(share: float, read_times: Callable[[], Iterable[Longs]]) -> int:
    """The time with a share of the interactions before it (no more of them), by counting in bins.

    Each pass over the data splits the bin with the wanted time, until a bin is one millisecond.
    """
    pieces = [(int(ms_N.min()), int(ms_N.max()), len(ms_N)) for ms_N in read_times() if len(ms_N)]
    low, high = min(first for first, _, _ in pieces), max(last for _, last, _ in pieces) + 1
    wanted = share * sum(count for _, _, count in pieces)
    below = 0  # interactions before `low`
    while high - low > 1:
        width = -(-(high - low) // _BINS)  # whole numbers: a float is not exact here
        edges = np.arange(low, high + width, width, dtype=np.int64)
        edges[-1] = high
        counts = np.zeros(len(edges) - 1, np.int64)
        for ms_N in read_times():
            inside_N = ms_N[(ms_N >= low) & (ms_N < high)]
            bin_N = np.searchsorted(edges, inside_N, side="right") - 1
            counts += np.bincount(bin_N, minlength=len(counts))
        before = below + np.cumsum(counts)
        chosen = min(int(np.searchsorted(before, wanted, side="right")), len(counts) - 1)
        below = int(before[chosen - 1]) if chosen else below
        low, high = int(edges[chosen]), int(edges[chosen + 1])
    return low
