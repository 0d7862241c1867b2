"""The loop over blocks, in three executions. Nothing here mixes rows.

`masked` and `gathered` obey keep decisions and have the same result; only `gathered` saves time.
`dense` runs every block for every row and takes no decisions. `context_TBC` is what every block
reads beside the state (`History.context_TBC`).
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from skiprec.layers import KeyedDropout
from skiprec.types import Execution

EVERY = slice(None)  # all blocks


class BlockStack(nn.Module):
    """Residual blocks, one after the other. Every `keep_BL` is exactly 0.0 or 1.0."""

    def __init__(
        self, blocks: list[nn.Module], dropout: float = 0.0, activation_checkpointing: bool = False
    ):
        super().__init__()
        self.blocks = nn.ModuleList(blocks)
        self.dropouts = nn.ModuleList(
            KeyedDropout(dropout, f"block-{index}") for index in range(len(blocks))
        )
        self.activation_checkpointing = activation_checkpointing

    def reset_parameters(self, generator: torch.Generator) -> None:
        """Draws the weights of the blocks, from the first block to the last."""
        for block in self.blocks:
            block.reset_parameters(generator)  # type: ignore[operator]

    def forward(
        self,
        x_TBD: Tensor,
        context_TBC: Tensor,
        key_B: Tensor,
        keep_BL: Tensor | None,
        execution: Execution,
        call_every_block: bool,
        start: int = 0,
        end: int | None = None,
    ) -> Tensor:
        """`x_TBD` after the blocks from `start` to `end`, by the named execution.

        Only `gathered` reads `call_every_block`, and `dense` does not read `keep_BL`. The blocks
        before `start` have run already; no `end` is behind the last block.
        """
        part = slice(start, len(self.blocks) if end is None else end)
        if execution == "dense":
            return self.dense(x_TBD, context_TBC, key_B, part)
        if keep_BL is None:
            raise ValueError(f"execution={execution!r} needs keep decisions, but keep_BL is None")
        if execution == "masked":
            return self.masked(x_TBD, context_TBC, key_B, keep_BL, part)
        if torch.is_grad_enabled() and not call_every_block:
            raise ValueError(
                "gathered execution with gradients needs call_every_block=True: ranks that call "
                "different blocks get silently wrong gradients under ZeRO"
            )
        return self.gathered(x_TBD, context_TBC, key_B, keep_BL, call_every_block, part)

    def dense(
        self, x_TBD: Tensor, context_TBC: Tensor, key_B: Tensor, part: slice = EVERY
    ) -> Tensor:
        """`x_TBD` after a part of the blocks, which run for every row."""
        for index in self._indices(part):
            x_TBD = self.run_block(index, x_TBD, context_TBC, key_B)
        return x_TBD

    def prefixes(
        self, x_TBD: Tensor, context_TBC: Tensor, key_B: Tensor, sizes: tuple[int, ...]
    ) -> Tensor:
        """`[M, B, D]`: the last position after the first n blocks, for each n in `sizes`.

        All blocks run, whatever the sizes.
        """
        last_by_size = {0: x_TBD[-1]}
        for index in range(len(self.blocks)):
            x_TBD = self.run_block(index, x_TBD, context_TBC, key_B)
            last_by_size[index + 1] = x_TBD[-1]
        return torch.stack([last_by_size[size] for size in sizes])

    def states(
        self,
        x_TBD: Tensor,
        context_TBC: Tensor,
        key_B: Tensor,
        keep_BL: Tensor | None,
        sizes: tuple[int, ...],
    ) -> Tensor:
        """`[M, T, B, D]`: all positions after the first n blocks, for each n in `sizes`, from 1 on.

        All blocks are called, whatever the sizes; `keep_BL` leaves some out of some rows, as
        `gathered` does.
        """
        rows_of_blocks = None if keep_BL is None else split_rows(keep_BL)
        states = {}
        for index in range(len(self.blocks)):
            if rows_of_blocks is None:
                x_TBD = self.run_block(index, x_TBD, context_TBC, key_B)
            else:
                rows = rows_of_blocks[index]
                x_TBD = self._run_for_rows(index, rows, x_TBD, context_TBC, key_B, torch.index_add)
            if index + 1 in sizes:
                states[index + 1] = x_TBD
        return torch.stack([states[size] for size in sizes])

    def run_block(self, index: int, x_TBD: Tensor, context_TBC: Tensor, key_B: Tensor) -> Tensor:
        """`x_TBD` after one block that all rows keep."""
        return x_TBD + self._branch(index, x_TBD, context_TBC, key_B)

    def masked(
        self,
        x_TBD: Tensor,
        context_TBC: Tensor,
        key_B: Tensor,
        keep_BL: Tensor,
        part: slice = EVERY,
    ) -> Tensor:
        """`x_TBD` after a part of the blocks, which all run; a skipped branch is multiplied by 0.

        `keep_BL` carries the gradient of the policy. It may be a `keep_TBL` with equal values at
        all positions, if their gradients differ. This execution saves no time.
        """
        for index in self._indices(part):
            branch_TBD = self._branch(index, x_TBD, context_TBC, key_B)
            x_TBD = torch.addcmul(x_TBD, keep_BL[..., index, None].to(x_TBD.dtype), branch_TBD)
        return x_TBD

    def gathered(
        self,
        x_TBD: Tensor,
        context_TBC: Tensor,
        key_B: Tensor,
        keep_BL: Tensor,
        call_every_block: bool,
        part: slice = EVERY,
    ) -> Tensor:
        """`x_TBD` after a part of the blocks. A block runs on the rows that keep it alone.

        With `call_every_block=True`, a block that no row keeps is called on zero rows. Under ZeRO,
        every rank must call every block in the same order, or gradients are silently wrong.
        """
        if not call_every_block and are_nested(keep_BL):
            return self.nested(x_TBD, context_TBC, key_B, keep_BL, part)
        add = torch.Tensor.index_add if torch.is_grad_enabled() else torch.Tensor.index_add_
        x_TBD = x_TBD.clone()
        rows_of_blocks = split_rows(keep_BL)
        for index in self._indices(part):
            rows = rows_of_blocks[index]
            if rows.numel() or call_every_block:
                x_TBD = self._run_for_rows(index, rows, x_TBD, context_TBC, key_B, add)
        return x_TBD

    def _run_for_rows(
        self,
        index: int,
        rows: Tensor,
        x_TBD: Tensor,
        context_TBC: Tensor,
        key_B: Tensor,
        add: Callable[..., Tensor],
    ) -> Tensor:
        """`x_TBD` after one block that these rows keep; `add` is `index_add`, in place or not."""
        if rows.numel() == x_TBD.shape[1]:
            return self.run_block(index, x_TBD, context_TBC, key_B)
        branch_TBD = self._branch(
            index,
            x_TBD.index_select(1, rows),
            context_TBC.index_select(1, rows),
            key_B[rows] if self.training else key_B,
        )
        return add(x_TBD, 1, rows, branch_TBD)

    def nested(
        self,
        x_TBD: Tensor,
        context_TBC: Tensor,
        key_B: Tensor,
        keep_BL: Tensor,
        part: slice = EVERY,
    ) -> Tensor:
        """`gathered` for rows that keep the first n blocks each, with an n of its own.

        Rows are sorted by n, the deepest first, so each block runs on a prefix of them and nothing
        is gathered between blocks.
        """
        row_B = keep_BL.sum(1).argsort(descending=True)
        counts: list[int] = (keep_BL != 0).sum(0).tolist()
        x_TBD, context_TBC = x_TBD.index_select(1, row_B), context_TBC.index_select(1, row_B)
        key_B = key_B[row_B] if self.training else key_B
        finished = []
        for index in self._indices(part):
            count = counts[index]
            if count < x_TBD.shape[1]:
                finished.append(x_TBD[:, count:])
                x_TBD, context_TBC = x_TBD[:, :count].contiguous(), context_TBC[:, :count]
                key_B = key_B[:count] if self.training else key_B
            if count:
                x_TBD = self.run_block(index, x_TBD, context_TBC, key_B)
        return torch.cat([x_TBD, *reversed(finished)], dim=1).index_select(1, row_B.argsort())

    def _indices(self, part: slice) -> range:
        return range(len(self.blocks))[part]

    def _branch(self, index: int, x_TBD: Tensor, context_TBC: Tensor, key_B: Tensor) -> Tensor:
        block: Callable[..., Tensor] = self.blocks[index]
        if self.activation_checkpointing and torch.is_grad_enabled():
            # Randomness comes from keys, so there is no generator state to restore.
            recomputed = checkpoint(
                block, x_TBD, context_TBC, use_reentrant=False, preserve_rng_state=False
            )
            branch_TBD: Tensor = recomputed
        else:
            branch_TBD = block(x_TBD, context_TBC)
        dropped_TBD: Tensor = self.dropouts[index](branch_TBD, key_B)
        return dropped_TBD


class WholeEncoder(nn.Module):
    """A baseline in the place of a stack: one module that runs for every row."""

    def __init__(self, encoder: nn.Module, dropout: float, activation_checkpointing: bool):
        super().__init__()
        if activation_checkpointing:
            raise ValueError(
                "training.activation_checkpointing has no effect without residual blocks; remove it"
            )
        self.blocks = nn.ModuleList([encoder])
        self.dropout = KeyedDropout(dropout, "encoder")

    def reset_parameters(self, generator: torch.Generator) -> None:
        """Draws the encoder's weights."""
        self.blocks[0].reset_parameters(generator)  # type: ignore[operator]

    def forward(
        self,
        x_TBD: Tensor,
        context_TBC: Tensor,
        key_B: Tensor,
        keep_BL: Tensor | None,
        execution: Execution,
        call_every_block: bool,
        start: int = 0,
        end: int | None = None,
    ) -> Tensor:
        """`x_TBD` after the module. The only execution is `dense`."""
        if execution != "dense":
            raise ValueError(
                f"execution={execution!r} needs residual blocks, and this baseline has none"
            )
        return self.run_block(0, x_TBD, context_TBC, key_B)

    def run_block(self, index: int, x_TBD: Tensor, context_TBC: Tensor, key_B: Tensor) -> Tensor:
        """`x_TBD` after the module."""
        out_TBD: Tensor = self.dropout(self.blocks[index](x_TBD, context_TBC), key_B)
        return out_TBD


def are_nested(keep_BL: Tensor) -> bool:
    """Whether every row keeps its first n blocks and no other, each with an n of its own."""
    return bool((keep_BL[:, 1:] <= keep_BL[:, :-1]).all())


def split_rows(keep_BL: Tensor) -> list[Tensor]:
    """For each block, the indices of the rows that keep it.

    One transfer to the host serves the whole stack.
    """
    block_row = (keep_BL != 0).t().nonzero()
    counts: list[int] = (keep_BL != 0).sum(0).tolist()
    return list(torch.split(block_row[:, 1], counts))
