"""Item tables that are updated only at the rows of a step, whatever the size of the catalogue.

With `training.item_optimizer`, the tables with a row for each item (embeddings, the head's vectors
and biases) are buffers instead of parameters. AdamW and DeepSpeed update every element of every
parameter, so they must not see these tables. The gradient of a table is sparse, a list of rows. A
step sums these lists over passes and ranks, and SparseAdam updates the listed rows and their
moments. A row in no list does not change, and neither do its moments. This differs from AdamW with
a gradient of zeros, which would still move the row by its momentum.

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
    """The tables that `build_optimizer` turned into buffers, by name.

    It must be called before an engine casts or moves the network.
    """
    return {
        name: table for name, table in network.item_tables() if not isinstance(table, nn.Parameter)
    }


class ItemTables:
    """The item tables and their optimizer. Without such tables, every method does nothing.

    Args:
        network: the network as the engine trains it: cast and moved.
        masters: the result of `table_masters`. With bf16, the optimizer updates these float32
            tensors, and the tables of the network are rounded copies.
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
                table = table.bfloat16()  # not every ZeRO stage of DeepSpeed rounds buffers
            set_table(network, name, table.requires_grad_())
            self.tables[name] = table
            self.masters[name] = master.to(table.device).detach().clone() if is_rounded else table
        self.optimizer: torch.optim.SparseAdam | None = None
        if masters:
            groups = parameter_groups(self.masters.items(), training)
            self.optimizer = torch.optim.SparseAdam(groups)
            for master in self.masters.values():
                # The state is created now, so that a new run and a resumed run are bitwise equal.
                adam_state(self.optimizer, master)

    def step(
        self, lr_factor: float, grad_norm: Tensor | float, comm: Collectives, scale: float = 1.0
    ) -> Tensor | float:
        """Updates the rows that have a gradient on any rank.

        Args:
            grad_norm: norm of the gradient of all other weights.
            scale: the factor by which the gradients of the tables are too large.

        Returns:
            The norm of the whole gradient, with the tables.
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
                (row_N,) = master.grad.indices()
                table.data[row_N] = master.data[row_N].to(table.dtype)
            master.grad = None
        return square**0.5

    def fragments(self) -> Iterator[Fragment]:
        """The fragments of the tables for a checkpoint; they are the same on every rank."""
        if self.optimizer is not None:
            yield from whole_fragments(self.masters.items(), self.optimizer)


def _sum_over_ranks(table: Tensor, comm: Collectives, scale: float) -> Tensor:
    """The gradient of `table`, summed over ranks, with each row once.

    It is float32, or float64 for a float64 table.
    """
    dtype = torch.promote_types(table.dtype, torch.float32)
    if table.grad is None:  # no row of this rank used the table
        row_N = torch.empty(0, dtype=torch.int64, device=table.device)
        values = torch.empty(0, *table.shape[1:], dtype=dtype, device=table.device)
    else:
        row_N, values = table.grad._indices()[0], table.grad._values().to(dtype) / scale
    if comm.world_size > 1:
        mine = _coalesced(row_N, values, table)
        row_N, values = mine.indices()[0], mine.values()
        # Every rank must bring the same number of rows, so we add rows with the index -1.
        counts = comm.gather(torch.tensor([len(row_N)], device=table.device))
        num_added = int(counts.max()) - len(row_N)
        row_N = comm.gather(torch.cat([row_N, row_N.new_full((num_added,), -1)]))
        values = comm.gather(torch.cat([values, values.new_zeros(num_added, *values.shape[1:])]))
        is_row_N = row_N >= 0
        row_N, values = row_N[is_row_N], values[is_row_N]
    return _coalesced(row_N, values, table)


def _coalesced(row_N: Tensor, values: Tensor, table: Tensor) -> Tensor:
    grad = torch.sparse_coo_tensor(row_N[None], values, table.shape, check_invariants=False)
    return grad.coalesce()
