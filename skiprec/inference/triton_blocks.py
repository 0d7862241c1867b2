"""The blocks of NextItNet and NextItNet+ as one Triton kernel, for a GPU.

Gathered execution in PyTorch launches several small kernels a block, which is slower than `dense`
on a GPU at 64 rows and more. Here a program takes a few rows with like decisions through all their
kept blocks, in one launch. `dense` uses the same kernel, so that the two compare fairly.

Nothing on the serving path or in training imports this module. Triton comes with CUDA builds of
torch; its interpreter (TRITON_INTERPRET=1) runs the kernel on a CPU, for tests.
"""

import copy
from typing import Any

import torch
import triton
from torch import Tensor, nn

from skiprec.inference.triton_kernel import kept_blocks
from skiprec.layers import KERNEL
from skiprec.models.nextitnet import NextItNetBlock
from skiprec.models.stack import EVERY, BlockStack
from skiprec.network import SkipRecNetwork

MAX_WIDTH = 128
TILE = 64  # positions that a program computes together, of one or several rows
MAX_ROWS = 4  # of a tile
PROGRAMS_OF_A_PROCESSOR = 4
PACKED = ("packed_weights", "packed_vectors", "packed_scales", "packed_dilations")


def with_triton_blocks(network: SkipRecNetwork) -> SkipRecNetwork:
    """A network that shares the weights of `network` and runs its blocks in the kernel.

    Raises:
        ValueError: the kernel does not know the network, or it is in training mode.
    """
    if network.training:
        raise ValueError("the Triton kernel has no gradients; call network.eval() first")
    unknown = why_not_triton(network)
    if unknown is not None:
        raise ValueError(f"the Triton kernel does not know {unknown}")
    changed = copy.copy(network)
    changed._modules = dict(network._modules)
    changed.stack = TritonStack(list(network.stack.blocks)).eval()
    return changed


def why_not_triton(network: SkipRecNetwork) -> str | None:
    """What the kernel does not know about a network, in words; None if it knows everything."""
    blocks = list(network.stack.blocks)
    if not all(isinstance(block, NextItNetBlock) for block in blocks):
        return f"the blocks of model.backbone={network.model_config.backbone!r}"
    width = network.model_config.width
    return f"model.width={width}; at most {MAX_WIDTH}" if width > MAX_WIDTH else None


class TritonStack(BlockStack):
    """`BlockStack` whose `dense` and `gathered` are one launch of the kernel.

    It holds a packed copy of the weights as they are now. `masked` stays in PyTorch.
    """

    def __init__(self, blocks: list[nn.Module]):
        super().__init__(blocks)
        for name, packed in zip(PACKED, _pack(blocks), strict=True):  # type: ignore[arg-type]
            self.register_buffer(name, packed, persistent=False)

    def dense(
        self, x_TBD: Tensor, is_item_TB1: Tensor, key_B: Tensor, part: slice = EVERY
    ) -> Tensor:
        """See `BlockStack`."""
        keep_BL = x_TBD.new_ones(x_TBD.shape[1], len(self.blocks))
        return self.gathered(x_TBD, is_item_TB1, key_B, keep_BL, False, part)

    def gathered(
        self,
        x_TBD: Tensor,
        is_item_TB1: Tensor,
        key_B: Tensor,
        keep_BL: Tensor,
        call_every_block: bool,
        part: slice = EVERY,
    ) -> Tensor:
        """See `BlockStack`. There is no gradient."""
        if torch.is_grad_enabled():
            raise ValueError("the Triton kernel has no gradients; call it under inference_mode")
        T, B, D = x_TBD.shape
        if len(self._indices(part)) < len(self.blocks):
            of_part_BL = torch.zeros_like(keep_BL)
            of_part_BL[:, part] = keep_BL[:, part]
            keep_BL = of_part_BL
        weight_LPDE, vector_LPD, scale_L, dilation_L = (getattr(self, name) for name in PACKED)
        padded = weight_LPDE.shape[-1]
        x_BTD = torch.zeros(B, T, padded, device=x_TBD.device)
        x_BTD[..., :D] = x_TBD.transpose(0, 1)
        first_B = (is_item_TB1[..., 0] == 0).sum(0, dtype=torch.int32)
        rows = max(1, min(MAX_ROWS, TILE // T))
        row_M, kept_ML, count_M = tiles_of(keep_BL, rows)
        kept_blocks[(min(len(count_M), _programs(x_TBD.device)),)](
            x_BTD, torch.empty_like(x_BTD), weight_LPDE, vector_LPD, scale_L, dilation_L,
            (keep_BL != 0).to(torch.int8), first_B, row_M, kept_ML, count_M, len(count_M),
            LENGTH=T, WIDTH=D, PADDED=padded, BLOCKS=len(self.blocks), ROWS=rows, TILE=TILE,
            PRECISION="tf32" if torch.backends.cuda.matmul.allow_tf32 else "ieee",
        )  # fmt: skip
        return x_BTD[..., :D].transpose(0, 1).to(x_TBD.dtype)


def tiles_of(keep_BL: Tensor, rows: int) -> tuple[Tensor, Tensor, Tensor]:
    """Tiles of rows with like decisions, those with most blocks first.

    Nothing here waits for the device.

    Returns:
        The rows of each tile, -1 for none, flat; `kept_ML`, the blocks that a row of the tile
        keeps, in order, then the others; and their number in each tile.
    """
    B, L = keep_BL.shape
    is_kept_BL = keep_BL != 0
    # Rows of equal depth lie together, and among them rows of equal decisions.
    fraction_L = torch.frac(torch.arange(1, L + 1, device=keep_BL.device).double() * 2**0.5) / L
    place_B = is_kept_BL.sum(1) + (is_kept_BL * fraction_L).sum(1)
    missing = -B % rows
    row_M = nn.functional.pad(place_B.argsort(descending=True), (0, missing), value=-1)
    is_kept_MRL = (is_kept_BL[row_M] & (row_M >= 0)[:, None]).view(-1, rows, L)
    is_kept_ML = is_kept_MRL.any(1)
    kept_ML = is_kept_ML.logical_not().to(torch.int8).argsort(dim=1, stable=True)
    order_M = is_kept_ML.sum(1).argsort(descending=True)
    return (
        row_M.view(-1, rows)[order_M].flatten().int(),
        kept_ML[order_M].int(),
        is_kept_ML.sum(1)[order_M].int(),
    )


Packed = tuple[Tensor, Tensor, Tensor, Tensor]


def _pack(blocks: list[NextItNetBlock]) -> Packed:
    """The weights with the newest tap first, in widths that are a power of two; zero beyond."""
    width = blocks[0].conv_1.weight_KDE.shape[-1]
    extra = max(16, triton.next_power_of_2(width)) - width

    def padded(tensor: Tensor) -> Tensor:
        sides = (0, extra) * (2 if tensor.dim() == 3 else 1)
        return nn.functional.pad(tensor.detach().float(), sides)

    weights: list[Tensor] = []
    vectors: list[Tensor] = []
    for block in blocks:
        for conv, norm in ((block.conv_1, block.norm_1), (block.conv_2, block.norm_2)):
            weights.append(padded(conv.weight_KDE.flip(0)))
            vectors += [padded(conv.bias_E), padded(norm.weight_D), padded(norm.bias_D)]
    one = weights[0].new_ones(1)
    scale_L = torch.cat([one if b.scale is None else b.scale.detach().float() for b in blocks])
    dilation_L = torch.tensor([block.conv_1.dilation for block in blocks], dtype=torch.int32)
    assert weights[0].shape[0] == KERNEL
    return (
        torch.stack(weights).contiguous(),
        torch.stack(vectors).contiguous(),
        scale_L.contiguous(),
        dilation_L.to(scale_L.device),
    )


def _programs(device: torch.device) -> Any:
    if device.type != "cuda":
        return 2  # the interpreter
    processors = torch.cuda.get_device_properties(device).multi_processor_count
    return PROGRAMS_OF_A_PROCESSOR * processors
