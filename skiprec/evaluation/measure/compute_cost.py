"""FLOPs of one row, counted from the operators that really run, for any backbone and policy.

A multiplication and an addition are two FLOPs. Taps of a convolution that lie wholly before the
window are not computed, so they are not counted either. Padded positions are computed, so every row
of a window costs the same until blocks are skipped.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from skiprec.models.exits import ExitReadouts
from skiprec.network import SkipRecNetwork
from skiprec.ranking import top_items

# Operators that move numbers and compute none. Views are recognised without a name here.
MOVES = frozenset(
    "arange cat clone copy embedding empty empty_like full gather index index_select masked_fill "
    "new_empty new_zeros ones scatter stack triu unsafe_split zeros zeros_like _to_copy "
    "_local_scalar_dense _unsafe_view".split()
)
PER_ELEMENT = {"native_layer_norm": 8, "_softmax": 5, "_log_softmax": 5, "gelu": 8, "silu": 5}
LOOKS_LIKE_A_PRODUCT = ("rnn", "gru", "lstm", "attention", "conv", "linear", "mm", "matmul")
CUDNN_GRU = 3  # the value of `mode` for a GRU in cuDNN
GRU_PER_STATE = 10  # an addition and a function for each of 3 gates, 1 to reset, 3 to mix
PRODUCTS = {
    packet._qualified_op_name.split("::")[1]: formula
    for packet, formula in flop_registry.items()
    if hasattr(packet, "_qualified_op_name")
}


def _attention_flops(
    q_BHTC: Tensor, k_BHTC: Tensor, v_BHTC: Tensor, *rest: Any, **others: Any
) -> int:
    """Two products, scale, bias and softmax of every pair of positions, masked pairs included."""
    num_pairs = q_BHTC.shape[:-1].numel() * k_BHTC.shape[-2]
    per_pair = 2 * q_BHTC.shape[-1] + 2 * v_BHTC.shape[-1] + 2 + PER_ELEMENT["_softmax"]
    return num_pairs * per_pair


def _gru_flops(
    x_TBD: Tensor,
    weights: list[Tensor],
    weight_stride: int,
    weight_buffer: Tensor | None,
    state_LBD: Tensor,
    cell_LBD: Tensor | None,
    mode: int,
    *rest: Any,
    **others: Any,
) -> int:
    """FLOPs of cuDNN's GRU: the sum over the operators that run in its place on a CPU."""
    if mode != CUDNN_GRU:
        raise ValueError(
            f"no FLOP formula for mode {mode} of operator aten::_cudnn_rnn; add one in {__file__}"
        )
    num_products = sum(weight.numel() for weight in weights if weight.dim() == 2)
    num_states = state_LBD.shape[0] * state_LBD.shape[-1]
    return x_TBD.shape[:-1].numel() * (2 * num_products + GRU_PER_STATE * num_states)


PRODUCTS |= {
    "_scaled_dot_product_cudnn_attention": _attention_flops,
    "_scaled_dot_product_efficient_attention": _attention_flops,
    "_scaled_dot_product_flash_attention": _attention_flops,
    "_scaled_dot_product_flash_attention_for_cpu": _attention_flops,
    "_cudnn_rnn": _gru_flops,
}


@dataclass(frozen=True)
class ComputeCost:
    """FLOPs of one row by part. `block_L` includes the addition of the branch to the input."""

    embedding: int
    policy: int
    block_L: tuple[int, ...]
    head: int

    @property
    def full(self) -> int:
        """FLOPs of a row with every block and no policy."""
        return self.embedding + sum(self.block_L) + self.head

    def rows(self, keep_RL: NDArray[np.bool_], with_policy: bool) -> NDArray[np.int64]:
        """FLOPs of each row under its keep decision."""
        rest = self.embedding + self.head + (self.policy if with_policy else 0)
        return keep_RL.astype(np.int64) @ np.asarray(self.block_L, np.int64) + rest


@torch.no_grad()
def measure_cost(network: SkipRecNetwork, num_positions: int, k: int) -> ComputeCost:
    """The FLOPs of a network in evaluation mode; one row runs through each of its parts."""
    device = network.device
    items_BT = torch.ones(1, num_positions, dtype=torch.int64, device=device)
    key_B = torch.zeros(1, dtype=torch.int64, device=device)
    times_BW = torch.zeros(1, num_positions + 1, dtype=torch.int64, device=device)
    history = network.embed(items_BT, key_B, times_BW)
    x_TBD, context_TBC = history.x_TBD, history.context_TBC
    stack = network.stack
    out_BD = network.encode_last(history, None, "dense")
    block_L = tuple(
        count_flops(lambda i=index: stack.run_block(i, x_TBD, context_TBC, key_B))  # type: ignore[misc]
        for index in range(network.num_blocks)
    )
    # A policy that reads an early state runs the first blocks, which are no cost of its own.
    early = 0 if network.policy is None else network.policy.reads_after or 0
    return ComputeCost(
        embedding=count_flops(lambda: network.embed(items_BT, key_B, times_BW)),
        policy=count_flops(lambda: network.decide(history)) - sum(block_L[:early]),
        block_L=_with_readouts(network, block_L, x_TBD[-1:]),
        head=count_flops(lambda: network.head(out_BD, partial(top_items, k=k))),
    )


def _with_readouts(
    network: SkipRecNetwork, block_L: tuple[int, ...], x_1BD: Tensor
) -> tuple[int, ...]:
    """The FLOPs of blocks, those before an exit with its readout, for exits that add up."""
    if not isinstance(network.exits, ExitReadouts):
        return block_L
    readout = count_flops(lambda: network.exits(x_1BD, 0))  # type: ignore[misc]
    depths = set(network.model_config.exits or ())
    return tuple(flops + readout * (place in depths) for place, flops in enumerate(block_L, 1))


def count_flops(run: Callable[[], object]) -> int:
    """FLOPs of the operators that `run` calls.

    Raises:
        ValueError: an operator multiplies matrices, and this file has no formula for it.
    """
    counter = _Counter()
    with counter:
        run()
    return counter.flops


class _Counter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.flops = 0

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        if not func.is_view:
            self.flops += _flops_of(func, args, kwargs or {}, out)
        return out


def _flops_of(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> int:
    # "aten::addmm_.default" and "aten::addmm.default" cost the same.
    written = func.name().split("::")[1].split(".")[0]
    name = written if written in PRODUCTS or written in MOVES else written.rstrip("_")
    if name in PRODUCTS:
        return int(PRODUCTS[name](*args, **kwargs, out_val=out))
    if name in MOVES:
        return 0
    if any(part in name for part in LOOKS_LIKE_A_PRODUCT):
        raise ValueError(
            f"no FLOP formula for operator {func.name()}; add one to PRODUCTS in {__file__}"
        )
    tensors = [value for value in (*args, out) if isinstance(value, Tensor)]
    largest = max((value.numel() for value in tensors), default=0)
    return PER_ELEMENT.get(name, 1) * largest
