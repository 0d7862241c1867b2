"""The optimizer's state on disk, in parts: any number of ranks wrote it, any number reads it.

A rank owns fragments: contiguous parts of flattened parameters, with their float32 master values
and their optimizer state. Without partitioning they are whole parameters; under ZeRO each rank has
its own. They are written where they are, and read where they overlap with what the reader owns, so
neither the number of ranks nor the ZeRO stage needs to be the same.

    rank-00000.safetensors    "<parameter>/<start>/<what>", what: master, exp_avg, exp_avg_sq, step
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
    """Elements `start` to `start + n` of parameter `name`, flattened.

    `values` are views into what the optimizer works on: (n,) each, but "step", which is a scalar.
    """

    name: str
    start: int
    values: dict[str, Tensor]


def whole_fragments(
    masters: Iterable[tuple[str, Tensor]], optimizer: torch.optim.Optimizer
) -> Iterator[Fragment]:
    """Unpartitioned: each parameter's name and the float32 tensor that the optimizer updates."""
    for name, master in masters:
        yield make_fragment(name, 0, master, 0, master.numel(), optimizer)


def make_fragment(
    name: str, start: int, flat: Tensor, offset: int, length: int, optimizer: torch.optim.Optimizer
) -> Fragment:
    """The fragment that lies in `flat`, a tensor of the optimizer, from `offset` on."""
    values = {MASTER: flat} | adam_state(optimizer, flat)

    def part(tensor: Tensor) -> Tensor:
        tensor = tensor.detach()
        return tensor if tensor.dim() == 0 else tensor.view(-1)[offset : offset + length]

    return Fragment(name, start, {what: part(tensor) for what, tensor in values.items()})


def adam_state(optimizer: torch.optim.Optimizer, parameter: Tensor) -> dict[str, Tensor]:
    """The state of one of its tensors, which `torch.optim.AdamW` makes only at its first step."""
    state: dict[str, Tensor] = optimizer.state[parameter]
    if not state:
        state["step"] = torch.zeros((), device=parameter.device)
        state["exp_avg"] = torch.zeros_like(parameter, requires_grad=False)
        state["exp_avg_sq"] = torch.zeros_like(parameter, requires_grad=False)
    return state


def save_fragments(folder: Path, rank: int, fragments: Iterable[Fragment]) -> None:
    """Writes what this rank owns."""
    tensors = {
        f"{fragment.name}/{fragment.start}/{what}": tensor
        for fragment in fragments
        for what, tensor in fragment.values.items()
    }
    # A step count is one tensor for all fragments of a partition; a file wants one each.
    counts = {key: tensor.clone() for key, tensor in tensors.items() if tensor.dim() == 0}
    save_file(tensors | counts, folder / f"rank-{rank:05d}.safetensors")


def load_fragments(folder: Path, fragments: Iterable[Fragment]) -> None:
    """Fills `fragments` in place, from the files of all ranks; reads only the bytes it needs.

    Raises:
        ValueError: an element of theirs is in no file.
    """
    with ExitStack() as stack:
        saved: dict[tuple[str, str], list[tuple[int, Any]]] = defaultdict(list)
        for path in sorted(folder.glob("rank-*.safetensors")):
            file = stack.enter_context(safe_open(path, "pt"))
            for key in file.keys():
                name, start, what = key.rsplit("/", 2)
                part = file.get_tensor(key) if what == "step" else file.get_slice(key)
                saved[name, what].append((int(start), part))
        for fragment in fragments:
            for what, target in fragment.values.items():
                parts = saved[fragment.name, what]
                filled = _fill(target, fragment.start, parts)
                if filled < target.numel():
                    raise ValueError(
                        f"{folder} holds {filled} of {target.numel()} values of {what} of "
                        f"{fragment.name}; it is of another version or another network: train the "
                        "run again"
                    )


@torch.no_grad()
def _fill(target: Tensor, start: int, parts: list[tuple[int, Any]]) -> int:
    """Copies what overlaps; returns the number of elements."""
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
