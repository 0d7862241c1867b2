"""Random numbers that are a pure function of a key, so that no generator state has to be saved.

In training, a row's key comes from the seed, the epoch and the row's place in the order of that
epoch. A stream separates the uses of one key. Two runs therefore draw the same noise for the same
row at any world size, batch size and order of calls, and a resumed run draws the same noise as an
uninterrupted one. The mixing function is the
finaliser of SplitMix64 (Steele, Lea & Flood, OOPSLA 2014). Integer arithmetic wraps around.
"""

import zlib

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

_GOLDEN = 0x9E3779B97F4A7C15
_MIX_1 = 0xBF58476D1CE4E5B9
_MIX_2 = 0x94D049BB133111EB


def _signed(value: int) -> int:
    return value - (1 << 64) if value >= 1 << 63 else value


def stream_id(name: str) -> int:
    """The number of a named use of randomness; it is the same in every process and version."""
    return zlib.crc32(name.encode())


def mix(*parts: int) -> int:
    """One 64-bit key from several integers; the order of the parts matters."""
    key = np.zeros(1, dtype=np.uint64)
    for part in parts:
        key = mix_array(key, np.asarray([part & 0xFFFFFFFFFFFFFFFF], dtype=np.uint64))
    return int(key[0])


def mix_array(key: NDArray[np.uint64], part: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """New keys: one SplitMix64 step of each key, with `part` mixed in."""
    with np.errstate(over="ignore"):
        z: NDArray[np.uint64] = key * np.uint64(_MIX_1) + (part + np.uint64(1)) * np.uint64(_GOLDEN)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(_MIX_1)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(_MIX_2)
        return z ^ (z >> np.uint64(31))


def permutation(key: int, size: int) -> NDArray[np.int64]:
    """A permutation of range(size): the numbers, sorted by their hashes under `key`."""
    hashes = mix_array(np.full(size, key, dtype=np.uint64), np.arange(size, dtype=np.uint64))
    return np.argsort(hashes, kind="stable")


def _finalise(z: Tensor) -> Tensor:
    # torch shifts signed numbers arithmetically; the masks make the shifts logical.
    z = (z ^ ((z >> 30) & 0x3FFFFFFFF)) * _signed(_MIX_1)
    z = (z ^ ((z >> 27) & 0x1FFFFFFFFF)) * _signed(_MIX_2)
    return z ^ ((z >> 31) & 0x1FFFFFFFF)


def uniform(key_B: Tensor, stream: str, num: int) -> Tensor:
    """`[B, num]` floats in the open interval (0, 1)."""
    counter = torch.arange(1, num + 1, device=key_B.device, dtype=torch.int64)
    start_B1 = _finalise(key_B + _signed(stream_id(stream) * 2654435761))[:, None]
    # A float32 holds 23 bits plus a half exactly. With 24 bits the largest number rounds to 1.0.
    bits = _finalise(start_B1 + counter * _signed(_GOLDEN)) >> 41 & 0x7FFFFF
    return (bits.to(torch.float32) + 0.5) * 2.0**-23


def dropout(x_TBD: Tensor, key_B: Tensor, stream: str, rate: float) -> Tensor:
    """`x_TBD` after inverted dropout.

    Whether an element is dropped depends on its row's key, its position and its channel only. A
    32-bit hash is enough to decide that, and takes half as many bytes as a 64-bit hash.
    """
    num_positions, _, width = x_TBD.shape
    start_B = _finalise(key_B + _signed(stream_id(stream) * 2654435761))
    position_T1 = torch.arange(num_positions, device=x_TBD.device)[:, None]
    row_TB1 = _finalise(start_B + position_T1 * _signed(_GOLDEN)).to(torch.int32)[:, :, None]
    channel_D = torch.arange(width, device=x_TBD.device, dtype=torch.int32) * 0x2C1B3C6D
    bits = row_TB1 ^ channel_D
    bits = bits.mul_(0x297A2D39)
    bits = bits.bitwise_xor_(bits >> 15).mul_(0x2C1B3C6D)
    keep = bits > int(rate * 2**32) - 2**31
    return x_TBD * keep * (1.0 / (1.0 - rate))
