"""The contract of an engine, and the readable single-process reference."""

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
    """Owns weights, gradients and optimizer. Every rank calls each method equally often."""

    device: torch.device
    objective: Objective

    def forward_backward(self, batch: Batch, pass_: Pass) -> dict[str, Tensor]:
        """One pass of a step: its loss is added to the gradient. Returns the pass's sums."""
        ...

    def forward(self, batch: Batch, pass_: Pass) -> dict[str, Tensor]:
        """A pass without gradient, with the weights as they are."""
        ...

    def step(self, lr_factor: float) -> dict[str, Tensor | float]:
        """Updates the weights; returns "grad_norm" and the learning rates by group."""
        ...

    def save(self, folder: Path) -> None:
        """Writes this rank's part of the optimizer's state (`skiprec.training.fragments`)."""
        ...

    def load(self, folder: Path, weights: dict[str, Tensor]) -> None:
        """Restores what `save` wrote, at any world size and ZeRO stage; bit for bit at the same.

        Args:
            weights: what `network_weights` returned then, on every rank.
        """
        ...

    def network_weights(self) -> dict[str, Tensor] | None:
        """The whole network's weights on the CPU, on rank 0; None elsewhere. A collective."""
        ...


class TorchEngine:
    """Plain PyTorch in one process. bf16 computes in bf16 and keeps float32 masters."""

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
        """See `Engine`. Dropout is off where the pass says so."""
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
