"""The interface of an engine, and a readable reference that runs in one process."""

from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor, nn

from skiprec.config.training import TrainingConfig
from skiprec.training.collectives import SingleProcess
from skiprec.training.fragments import Fragment, load_fragments, save_fragments, whole_fragments
from skiprec.training.item_tables import ItemTables, table_masters
from skiprec.training.objective import Objective
from skiprec.training.optim import set_learning_rates
from skiprec.types import Batch, Pass


class Engine(Protocol):
    """Owns weights, gradients and optimizer. Every rank must call each method equally often.

    The gradient of a step is the sum of the gradients of all passes of all ranks.
    """

    device: torch.device
    objective: Objective

    def forward_backward(self, batch: Batch, pass_: Pass) -> dict[str, Tensor]:
        """Adds the gradient of one loss pass to this rank's gradients.

        Returns the pass's sums for the log, without "loss".
        """
        ...

    def forward(self, batch: Batch, pass_: Pass) -> dict[str, Tensor]:
        """The result of one pass without gradient."""
        ...

    def step(self, lr_factor: float) -> dict[str, Tensor | float]:
        """Updates the weights and returns "grad_norm" and the learning rates of the groups."""
        ...

    def save(self, folder: Path) -> None:
        """Writes the optimizer state that this rank owns (`skiprec.training.fragments`)."""
        ...

    def load(self, folder: Path, weights: dict[str, Tensor]) -> None:
        """Restores a saved state, at any world size and ZeRO stage.

        At the world size and ZeRO stage of `save`, the state is restored bit for bit.

        Args:
            weights: the result of `network_weights` at the time of `save`, on every rank.
        """
        ...

    def network_weights(self) -> dict[str, Tensor] | None:
        """All weights on the CPU of rank 0; None on the other ranks. This is a collective."""
        ...


class TorchEngine:
    """Plain PyTorch in one process. With bf16, it keeps float32 master weights."""

    def __init__(
        self,
        objective: Objective,
        optimizer: torch.optim.Optimizer,
        training: TrainingConfig,
        device: torch.device,
    ):
        tables = table_masters(objective.network)
        self.objective = objective.to(device)
        self.optimizer = optimizer
        self.clip_norm = training.grad_clip_norm
        self.device = device
        self.masters: dict[nn.Parameter, nn.Parameter] = {}
        if training.precision == "bf16":
            self._keep_masters()
        self.tables = ItemTables(objective.network, tables, training)

    def forward_backward(self, batch: Batch, pass_: Pass) -> dict[str, Tensor]:
        """See `Engine`."""
        self.objective.train()
        sums: dict[str, Tensor] = self.objective(batch, pass_)
        sums.pop("loss").backward()  # type: ignore[no-untyped-call]
        return sums

    @torch.no_grad()
    def forward(self, batch: Batch, pass_: Pass) -> dict[str, Tensor]:
        """See `Engine`. `Pass.turns_dropout_off` decides about dropout."""
        self.objective.train(not pass_.turns_dropout_off)
        sums: dict[str, Tensor] = self.objective(batch, pass_)
        return sums

    def step(self, lr_factor: float) -> dict[str, Tensor | float]:
        """See `Engine`."""
        for parameter, master in self.masters.items():
            master.grad = None if parameter.grad is None else parameter.grad.float()
        owned = [p for group in self.optimizer.param_groups for p in group["params"]]
        grad_norm: Tensor | float = nn.utils.clip_grad_norm_(owned, self.clip_norm or float("inf"))
        rates = set_learning_rates(self.optimizer, lr_factor)
        self.optimizer.step()
        grad_norm = self.tables.step(lr_factor, grad_norm, SingleProcess())
        with torch.no_grad():
            for parameter, master in self.masters.items():
                parameter.copy_(master)
        self.objective.zero_grad(set_to_none=True)
        return {"grad_norm": grad_norm, **{f"lr/{name}": rate for name, rate in rates.items()}}

    def save(self, folder: Path) -> None:
        """See `Engine`."""
        save_fragments(folder, 0, self._fragments())

    def load(self, folder: Path, weights: dict[str, Tensor]) -> None:
        """See `Engine`."""
        self.objective.network.load_state_dict(weights)
        load_fragments(folder, self._fragments())

    def network_weights(self) -> dict[str, Tensor] | None:
        """See `Engine`."""
        return {
            name: tensor.detach().cpu().clone()
            for name, tensor in self.objective.network.state_dict().items()
        }

    def _fragments(self) -> Iterator[Fragment]:
        named = self.objective.network.named_parameters()
        masters = ((name, self.masters.get(p, p)) for name, p in named if p.requires_grad)
        yield from whole_fragments(masters, self.optimizer)
        yield from self.tables.fragments()

    def _keep_masters(self) -> None:
        for group in self.optimizer.param_groups:
            masters = [nn.Parameter(p.detach().clone()) for p in group["params"]]
            self.masters |= dict(zip(group["params"], masters, strict=True))
            group["params"] = masters
        self.objective.to(torch.bfloat16)
