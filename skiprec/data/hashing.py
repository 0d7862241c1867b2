"""Hashes of user ids: equal on every machine, and computed for whole columns at once."""

import numpy as np
import numpy.typing as npt
import pyarrow as pa

Hashes = npt.NDArray[np.uint64]

_FNV_OFFSET = np.uint64(0xCBF29CE484222325)
_FNV_PRIME = np.uint64(0x100000001B3)


def mix(x_N: Hashes) -> Hashes:
    """The finaliser of splitmix64 of each value: every input bit changes every output bit."""
    x_N = x_N + np.uint64(0x9E3779B97F4A7C15)
    x_N = (x_N ^ (x_N >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x_N = (x_N ^ (x_N >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x_N ^ (x_N >> np.uint64(31))


def hash_texts(texts: pa.Array) -> Hashes:
    """`mix` of the FNV-1a hash of the UTF-8 bytes of each string; `texts` has no nulls."""
    texts = texts.cast(pa.large_string())
    start_N = np.frombuffer(texts.buffers()[1], np.int64)[texts.offset :][: len(texts) + 1]
    data = np.frombuffer(texts.buffers()[2] or b"", np.uint8)
    length_N = np.diff(start_N)
    hash_N = np.full(len(texts), _FNV_OFFSET)
    # The longest strings come first, so those with a byte at `position` are always a prefix.
    order_N = np.argsort(-length_N, kind="stable")
    start_N, remaining_N = start_N[:-1][order_N], length_N[order_N]
    for position in range(int(remaining_N[0]) if len(texts) else 0):
        active = int(np.searchsorted(-remaining_N, -position, side="left"))
        byte_N = data[start_N[:active] + position]
        hash_N[:active] = (hash_N[:active] ^ byte_N) * _FNV_PRIME
    unsorted_N = np.empty_like(hash_N)
    unsorted_N[order_N] = hash_N
    return mix(unsorted_N)


def keyed_uniform(hash_N: Hashes, seed: int, salt: int = 0) -> npt.NDArray[np.float64]:
    """A number in [0, 1) for each hash; another seed or salt gives an independent number."""
    key = mix(mix(np.array([seed], np.uint64)) ^ np.array([salt], np.uint64))
    scale: float = 2.0**-53
    return (mix(hash_N ^ key) >> np.uint64(11)).astype(np.float64) * scale
