"""The native library, called through ctypes, which releases the interpreter's lock meanwhile."""

import ctypes
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skiprec.inference.native.places import find_library

MAX_K, MAX_LIST = 10_000, 65_536  # as in api.cpp
PARTS = ("policy", "blocks", "head")  # as in kernels.h; the embedding counts with the blocks
BF16_LEVELS = ("amx_bf16", "avx512_bf16")  # whose products of blocks are in bf16, the best first


SHAPE_FIELDS = (
    *("backbone", "items", "width", "blocks", "window", "heads", "positions_table"),
    *("norms", "rule", "policy_width", "policy_has_table", "sets", "reads_after"),
    "readout_width",
)


class Shape(ctypes.Structure):
    """The shape of a model; the fields of `Shape` in kernels.h, in that order."""

    _fields_ = tuple((name, ctypes.c_int32) for name in SHAPE_FIELDS)


@dataclass(frozen=True)
class Lists:
    """Lists that belong to a shape.

    Args:
        dilations: of each block, for a backbone of convolutions; else empty.
        set_sizes: of the nested sets that the policy offers; empty without such a policy.
        exit_depths: the blocks before each norm; the last is all blocks. Empty without a norm.
    """

    dilations: tuple[int, ...] = ()
    set_sizes: tuple[int, ...] = ()
    exit_depths: tuple[int, ...] = ()


class _Lists(ctypes.Structure):
    """The fields of `Lists` in kernels.h, in that order."""

    _fields_ = tuple(
        (name, ctypes.POINTER(ctypes.c_int32)) for name in ("dilations", "set_sizes", "exit_depths")
    )


class _Request(ctypes.Structure):
    """The fields of `Request` in kernels.h, in that order."""

    _fields_ = (
        ("items", ctypes.c_char_p),
        ("ends", ctypes.c_char_p),
        ("given_keep", ctypes.c_char_p),
        ("allowed", ctypes.c_char_p),
        ("setting", ctypes.c_float),
        ("num_items", ctypes.c_int64),
        ("k", ctypes.c_int32),
        ("excludes_seen", ctypes.c_int32),
        ("rows", ctypes.c_int32),
        ("items_out", ctypes.c_void_p),
        ("scores_out", ctypes.c_void_p),
        ("keep_out", ctypes.c_void_p),
        ("seconds_out", ctypes.c_void_p),
    )


@dataclass(slots=True)
class Answer:
    """Lists of items, best first, and the decision behind them."""

    items_BK: NDArray[np.int32]
    """Item ids from 1; 0 where a row has no more items."""
    scores_BK: NDArray[np.float32]
    keep_BL: NDArray[np.bool_]
    seconds_P: NDArray[np.float64]
    """Time of the call in each of `PARTS`, summed over its threads."""


class NativeModel:
    """A model in the native library. Threads may share it.

    Args:
        weights_N: all weights, in the order of `pack.py`.
        level: name of the instruction set; None: the best that this machine has.
        library: the file; None: that of the wheel or of the environment.

    Raises:
        FileNotFoundError: there is no library.
        ValueError: the library refuses the model; the message says why.
    """

    def __init__(
        self,
        shape: Shape,
        lists: Lists,
        weights_N: NDArray[np.float32],
        level: str | None = None,
        library: Path | None = None,
    ):
        self._library = open_library(library)
        self._shape = shape
        weights_N = np.ascontiguousarray(weights_N, np.float32)
        # As long as the shape says, so that the library never reads behind a list.
        lengths = {"dilations": shape.blocks, "set_sizes": shape.sets, "exit_depths": shape.norms}
        arrays = []
        for name, length in lengths.items():
            values = getattr(lists, name)
            room = max(1, len(values), min(length, MAX_LIST))
            arrays.append((ctypes.c_int32 * room)(*values))
        self._handle = self._library.skiprec_load(
            ctypes.byref(shape),
            ctypes.byref(_Lists(*arrays)),
            weights_N.ctypes.data,
            weights_N.size,
            None if level is None else level.encode(),
        )
        if not self._handle:
            raise ValueError(f"the native executor refuses this model: {self._reason()}")

    def __del__(self) -> None:
        if getattr(self, "_handle", None):
            self._library.skiprec_free(self._handle)

    def recommend(
        self,
        item_N: NDArray[np.integer[Any]],
        end_B: NDArray[np.integer[Any]],
        k: int,
        exclude_seen: bool = False,
        keep_BL: NDArray[np.bool_] | None = None,
        setting: float = 0.0,
        allowed_V: NDArray[np.bool_] | None = None,
        threads: int = 1,
    ) -> Answer:
        """The best `k` items of each history.

        Args:
            item_N: the items of all histories, one history after the other, oldest item first.
                Of a history longer than the window the newest items are read.
            end_B: where each history ends in `item_N`.
            keep_BL: which blocks run. None: the policy decides, or all run without a policy.
            setting: of the policy. Of logits: log(t / (1 - t)) of the threshold t on P(keep). Of
                costs: the price of all blocks.
            allowed_V: the items that may be recommended; entry v is item v + 1. None: all.

        Raises:
            ValueError: the library refuses the request; the message says why.
        """
        if not 1 <= k <= MAX_K:
            raise ValueError(f"k is {k}; expected 1 to {MAX_K}")
        return self._call(item_N, end_B, k, exclude_seen, keep_BL, setting, allowed_V, threads)

    def run_blocks(
        self,
        item_N: NDArray[np.integer[Any]],
        end_B: NDArray[np.integer[Any]],
        keep_BL: NDArray[np.bool_] | None = None,
        setting: float = 0.0,
        threads: int = 1,
    ) -> NDArray[np.bool_]:
        """`keep_BL`: as `recommend`, without lists; to time the policy and the blocks alone."""
        return self._call(item_N, end_B, 0, False, keep_BL, setting, None, threads).keep_BL

    def _call(
        self,
        item_N: NDArray[np.integer[Any]],
        end_B: NDArray[np.integer[Any]],
        k: int,
        exclude_seen: bool,
        keep_BL: NDArray[np.bool_] | None,
        setting: float,
        allowed_V: NDArray[np.bool_] | None,
        threads: int,
    ) -> Answer:
        num_rows, num_blocks = len(end_B), self._shape.blocks
        given = allowed = None
        if keep_BL is not None:
            if keep_BL.shape != (num_rows, num_blocks):
                raise ValueError(
                    f"expected decisions of shape {(num_rows, num_blocks)}, got {keep_BL.shape}"
                )
            given = keep_BL.astype(np.bool_, copy=False).tobytes()
        if allowed_V is not None:
            if allowed_V.shape != (self._shape.items,):
                raise ValueError(
                    f"expected one flag for each of {self._shape.items} items, got the shape "
                    f"{allowed_V.shape}"
                )
            # One byte more, as the library reads whole bytes.
            allowed = np.packbits(allowed_V, bitorder="little").tobytes() + b"\0"
        items_BK = np.empty((num_rows, k), np.int32)
        scores_BK = np.empty((num_rows, k), np.float32)
        kept_BL = np.empty((num_rows, num_blocks), np.bool_)
        seconds_P = np.empty(len(PARTS))
        request = _Request(
            _int32(item_N).tobytes(),
            end_B.astype(np.int64, copy=False).tobytes(),
            given,
            allowed,
            setting,
            item_N.size,
            k,
            exclude_seen,
            num_rows,
            _address(items_BK),
            _address(scores_BK),
            _address(kept_BL),
            _address(seconds_P),
        )
        if self._library.skiprec_recommend(self._handle, ctypes.byref(request), threads):
            raise ValueError(f"the native executor refuses the request: {self._reason()}")
        return Answer(items_BK, scores_BK, kept_BL, seconds_P)

    def scores(self, vector_BD: NDArray[np.float32]) -> NDArray[np.float32]:
        """`[B, V]`: the scores of all items, as the top-k computes them."""
        vector_BD = np.ascontiguousarray(vector_BD, np.float32)
        score_BV = np.empty((len(vector_BD), self._shape.items), np.float32)
        self._library.skiprec_scores(
            self._handle, vector_BD.ctypes.data, len(vector_BD), score_BV.ctypes.data
        )
        return score_BV

    def _reason(self) -> str:
        reason: bytes = self._library.skiprec_error()
        return reason.decode()


def _int32(item_N: NDArray[np.integer[Any]]) -> NDArray[np.int32]:
    """Ids in 32 bits. One that does not fit becomes -1, which the library refuses."""
    if item_N.dtype == np.int32:
        return item_N.astype(np.int32, copy=False)
    fits_N = (item_N >= 0) & (item_N < 2**31)
    return np.where(fits_N, item_N, -1).astype(np.int32)


def _address(array: NDArray[Any]) -> int | None:
    """Where a writable array's data are; `array.ctypes` would take three times as long."""
    if not array.size:
        return None
    return ctypes.addressof(ctypes.c_char.from_buffer(array))  # type: ignore[arg-type]


def open_library(path: Path | None = None) -> ctypes.CDLL:
    """The library with the types of its functions.

    Raises:
        FileNotFoundError: there is none.
    """
    path = path or find_library()
    if path is None:
        raise FileNotFoundError(
            "the native executor is not built in this environment; `make install` builds it where "
            "there is a C++ compiler"
        )
    return _open(path)


@cache
def _open(path: Path) -> ctypes.CDLL:
    library = ctypes.CDLL(str(path))
    pointer, size, number = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int
    text = ctypes.c_char_p
    types: dict[str, tuple[Any, list[Any]]] = {
        "skiprec_level_name": (text, [number]),
        "skiprec_error": (text, []),
        "skiprec_load": (pointer, [pointer, pointer, pointer, size, text]),
        "skiprec_free": (None, [pointer]),
        "skiprec_recommend": (number, [pointer, pointer, number]),
        "skiprec_scores": (None, [pointer, pointer, number, pointer]),
    }
    for name, (result, arguments) in types.items():
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments
    return library


def levels(library: Path | None = None) -> list[str]:
    """The instruction sets that the library can use on this machine, best first; all in float32."""
    return [name for name in _levels(library) if name not in BF16_LEVELS]


def bf16_levels(library: Path | None = None) -> list[str]:
    """The levels of this machine that multiply in bf16, best first."""
    return [name for name in _levels(library) if name in BF16_LEVELS]


def level_of(executor: str) -> str | None:
    """The level of the executor `native_bf16`; None, the best in float32, of another.

    Raises:
        ValueError: this processor does not multiply in bf16.
    """
    if executor != "native_bf16":
        return None
    found = bf16_levels()
    if not found:
        raise ValueError("this processor does not multiply in bf16; use the executor 'native'")
    return found[0]


def _levels(library: Path | None) -> list[str]:
    opened = open_library(library)
    names: list[str] = []
    while (name := opened.skiprec_level_name(len(names))) is not None:
        names.append(name.decode())
    return names
