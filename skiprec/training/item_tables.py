"""Item tables whose step costs what its batch touches, whatever the size of the catalogue.

With `training.item_optimizer` the rows of items (embeddings, the head's vectors and biases) are
buffers, not parameters: AdamW and DeepSpeed, whose steps go over every element they know, do not
see them. Their gradients are sparse, lists of rows; a step sums those over passes and ranks, and
SparseAdam moves the listed rows and their moments. A row that no batch touches stays as it is,
moments included, so this is not AdamW with zeros: Adam would move it on by its old momentum.

Each rank holds whole tables and makes the same update.
"""

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from skiprec.config.training import TrainingConfig
from skiprec.network import SkipRecNetwork
from skiprec.training.collectives import Collectives
from skiprec.training.fragments import Fragment, adam_state, whole_fragments
from skiprec.training.optim import parameter_groups, set_learning_rates, set_table


def table_masters(network: SkipRecNetwork) -> dict[str, Tensor]:
    """The tables that `build_optimizer` took out, before an engine casts or moves the network."""
    return {
        name: table for name, table in network.item_tables() if not isinstance(table, nn.Parameter)
    }


class ItemTables:
    """The tables and their optimizer; where none were taken out, all of it does nothing.

    Args:
        network: as the engine trains it.
        masters: of `table_masters`; a network in bf16 trains these, in float32, and rounds.
    """

    def __init__(
        self, network: SkipRecNetwork, masters: dict[str, Tensor], training: TrainingConfig
    ):
        self.tables: dict[str, Tensor] = {}
        self.masters: dict[str, Tensor] = {}
        for name, master in masters.items():
            is_rounded = training.precision == "bf16"
            table = network.get_buffer(name).detach()
            if is_rounded:
                table = table.bfloat16()  # DeepSpeed rounds buffers, but not at every stage
            set_table(network, name, table.requires_grad_())
            self.tables[name] = table
            self.masters[name] = master.to(table.device).detach().clone() if is_rounded else table
        self.optimizer: torch.optim.SparseAdam | None = None
        if masters:
            groups = parameter_groups(self.masters.items(), training)
            self.optimizer = torch.optim.SparseAdam(groups)
            for master in self.masters.values():
                adam_state(self.optimizer, master)  # as it is after a resume, to the last bit

    def step(
        self, lr_factor: float, grad_norm: Tensor | float, comm: Collectives, scale: float = 1.0
    ) -> Tensor | float:
        """Moves the rows that have a gradient on any rank.

        Args:
            grad_norm: of all other weights.
            scale: what the tables' gradients are too large by.

        Returns:
            The norm with the tables in it.
        """
        if self.optimizer is None:
            return grad_norm
        square = grad_norm**2
        for name, table in self.tables.items():
            grad = _sum_over_ranks(table, comm, scale)
            square = square + grad.values().square().sum()
            table.grad = None
            self.masters[name].grad = grad
        set_learning_rates(self.optimizer, lr_factor)
        self.optimizer.step()  # type: ignore[no-untyped-call]
        for name, table in self.tables.items():
            master = self.masters[name]
            assert master.grad is not None
            if master is not table:
                (row_U,) = master.grad.indices()
                table.data[row_U] = master.data[row_U].to(table.dtype)
            master.grad = None
        return square**0.5

    def fragments(self) -> Iterator[Fragment]:
        """What a checkpoint holds of them; the same on every rank."""
        if self.optimizer is not None:
            yield from whole_fragments(self.masters.items(), self.optimizer)


def _sum_over_ranks(table: Tensor, comm: Collectives, scale: float) -> Tensor:
    """The gradient in float32 (in float64 for such a table), with each row once."""
    dtype = torch.promote_types(table.dtype, torch.float32)
    if table.grad is None:  # this rank's rows touched nothing of it
        row_U = torch.empty(0, dtype=torch.int64, device=table.device)
        values = torch.empty(0, *table.shape[1:], dtype=dtype, device=table.device)
    else:
        row_U, values = table.grad._indices()[0], table.grad._values().to(dtype) / scale
    if comm.world_size > 1:
        mine = _coalesced(row_U, values, table)
        row_U, values = mine.indices()[0], mine.values()
        # A gather wants equally many rows of each rank: what is added is row -1.
        counts = comm.gather(torch.tensor([len(row_U)], device=table.device))
        added = int(counts.max()) - len(row_U)
        row_U = comm.gather(torch.cat([row_U, row_U.new_full((added,), -1)]))
        values = comm.gather(torch.cat([values, values.new_zeros(added, *values.shape[1:])]))
        is_row_U = row_U >= 0
        row_U, values = row_U[is_row_U], values[is_row_U]
    return _coalesced(row_U, values, table)


def _coalesced(row_U: Tensor, values: Tensor, table: Tensor) -> Tensor:
    grad = torch.sparse_coo_tensor(row_U[None], values, table.shape, check_invariants=False)
    return grad.coalesce()
