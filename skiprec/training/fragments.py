"""The optimizer state on disk, in fragments. The ranks that read may differ from those that wrote.

A fragment is a contiguous part of a flattened parameter, with its float32 master weights and its
optimizer state. Without partitioning, a fragment is a whole parameter. Under ZeRO each rank owns
other fragments. A rank writes the fragments that it owns, and reads the parts of all files that
overlap with its own fragments. The number of ranks and the ZeRO stage may therefore change.

    rank-00000.safetensors    keys "<parameter>/<start>/<quantity>"

The quantities are `master` (master weights), `exp_avg`, `exp_avg_sq` and `step` (of Adam).
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

MASTER = "master"


@dataclass(frozen=True)
class Fragment:
    """Elements `start` to `start + n` of the flattened parameter `name`.

    `values` holds each quantity as a view of the optimizer's own tensor. Each has the shape (n,),
    but `step` is a scalar.
    """

    name: str
    start: int
    values: dict[str, Tensor]


def whole_fragments(
    masters: Iterable[tuple[str, Tensor]], optimizer: torch.optim.Optimizer
) -> Iterator[Fragment]:
    """One fragment for each whole parameter.

    Args:
        masters: the name of each parameter and the float32 tensor that the optimizer updates.
    """
    for name, master in masters:
        yield make_fragment(name, 0, master, 0, master.numel(), optimizer)


def make_fragment(
    name: str, start: int, flat: Tensor, offset: int, length: int, optimizer: torch.optim.Optimizer
) -> Fragment:
    """The fragment of `length` elements from `offset` on in `flat`, a tensor of the optimizer."""
    values = {MASTER: flat} | adam_state(optimizer, flat)

    def part(tensor: Tensor) -> Tensor:
        tensor = tensor.detach()
        return tensor if tensor.dim() == 0 else tensor.view(-1)[offset : offset + length]

    parts = {quantity: part(tensor) for quantity, tensor in values.items()}
    return Fragment(name, start, parts)


def adam_state(optimizer: torch.optim.Optimizer, parameter: Tensor) -> dict[str, Tensor]:
    """The optimizer's state of one tensor. It is created here if there was no step yet."""
    state: dict[str, Tensor] = optimizer.state[parameter]
    if not state:
        state["step"] = torch.zeros((), device=parameter.device)
        state["exp_avg"] = torch.zeros_like(parameter, requires_grad=False)
        state["exp_avg_sq"] = torch.zeros_like(parameter, requires_grad=False)
    return state


def save_fragments(folder: Path, rank: int, fragments: Iterable[Fragment]) -> None:
    """Writes the fragments that this rank owns to its file in `folder`."""
    tensors = {
        f"{fragment.name}/{fragment.start}/{quantity}": tensor
        for fragment in fragments
        for quantity, tensor in fragment.values.items()
    }
    # All fragments of a partition share one tensor of the step count. A safetensors file must not
    # hold a tensor twice, so each fragment gets a copy.
    counts = {key: tensor.clone() for key, tensor in tensors.items() if tensor.dim() == 0}
    save_file(tensors | counts, folder / f"rank-{rank:05d}.safetensors")


def load_fragments(folder: Path, fragments: Iterable[Fragment]) -> None:
    """Fills `fragments` in place from the files of all ranks; reads only the bytes it needs.

    Raises:
        ValueError: an element of a fragment is in no file.
    """
    with ExitStack() as stack:
        saved: dict[tuple[str, str], list[tuple[int, Any]]] = defaultdict(list)
        for path in sorted(folder.glob("rank-*.safetensors")):
            file = stack.enter_context(safe_open(path, "pt"))
            for key in file.keys():
                name, start, quantity = key.rsplit("/", 2)
                part = file.get_tensor(key) if quantity == "step" else file.get_slice(key)
                saved[name, quantity].append((int(start), part))
        for fragment in fragments:
            for quantity, target in fragment.values.items():
                parts = saved[fragment.name, quantity]
                filled = _fill(target, fragment.start, parts)
                if filled < target.numel():
                    raise ValueError(
                        f"{folder} holds {filled} of {target.numel()} values of {quantity} of "
                        f"{fragment.name}; it comes from another version or another network: train "
                        "the run again"
                    )


@torch.no_grad()
def _fill(target: Tensor, start: int, parts: list[tuple[int, Any]]) -> int:
    """Copies the overlap of `parts` with `target`; returns the number of copied elements."""
    if target.dim() == 0:
        for _, part in parts[:1]:
            target.copy_(part)
        return len(parts[:1])
    filled = 0
    for part_start, part in parts:
        low = max(start, part_start)
        high = min(start + len(target), part_start + part.get_shape()[0])
        if low < high:
            target[low - start : high - start].copy_(part[low - part_start : high - part_start])
            filled += high - low
    return filled
