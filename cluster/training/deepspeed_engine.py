"""The training engine on DeepSpeed; the only file that imports DeepSpeed.

DeepSpeed picks its accelerator when it is imported, so a worker must call `prepare_process` before
it builds a `DeepSpeedEngine`.
"""

import importlib
import logging
import os
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from skiprec.config.training import TrainingConfig
from skiprec.models.head import TiedItemHead
from skiprec.training.collectives import ProcessGroup
from skiprec.training.fragments import (
    Fragment,
    load_fragments,
    make_fragment,
    save_fragments,
    whole_fragments,
)
from skiprec.training.item_tables import ItemTables, table_masters
from skiprec.training.objective import Objective
from skiprec.training.optim import set_learning_rates
from skiprec.types import Batch, Pass


def prepare_process(use_gpu: bool) -> None:
    """Sets the environment variable that DeepSpeed reads when it is imported."""
    os.environ.setdefault("DS_ACCELERATOR", "cuda" if use_gpu else "cpu")


def _import_deepspeed() -> Any:
    import deepspeed

    # DeepSpeed would compile this extension with g++ at the first start, for a minute. A process
    # that is killed meanwhile leaves a lock at which every later start hangs. We do not use it.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    _import_without_compiler("deepspeed.runtime.zero.muon.original_muon")
    logging.getLogger("DeepSpeed").setLevel(logging.ERROR)
    return deepspeed


def _import_without_compiler(module: str) -> None:
    """Imports a module of DeepSpeed while `torch.compile` returns functions as they are.

    DeepSpeed imports it at every start, for an optimizer that we do not use, and `torch.compile`
    would load torch's compiler for it, for seconds.
    """
    compile_function = torch.compile
    torch.compile = lambda function: function  # type: ignore[assignment]
    try:
        importlib.import_module(module)
    finally:
        torch.compile = compile_function


class DeepSpeedEngine:
    """Implements `skiprec.training.engine.Engine`; the default process group must exist.

    Args:
        settings: the dictionary from `deepspeed_config`.
    """

    def __init__(
        self,
        objective: Objective,
        optimizer: torch.optim.Optimizer,
        settings: dict[str, Any],
        training: TrainingConfig,
        device: torch.device,
    ):
        self.deepspeed = _import_deepspeed()
        self.objective = objective
        self.device = device
        self.passes: int = settings["gradient_accumulation_steps"]
        self.zero_stage: int = settings["zero_optimization"]["stage"]
        self.clip_norm: float = settings["gradient_clipping"]
        self.pass_index = 0
        masters = table_masters(objective.network)
        if isinstance(head := objective.network.head, TiedItemHead):
            # ZeRO-3 gathers a module's own weights only, unless it is told of others.
            self.deepspeed.zero.register_external_parameter(head, head.table_weight)
        self.engine, self.optimizer, _, _ = self.deepspeed.initialize(
            model=objective, optimizer=optimizer, config=settings, dist_init_required=False
        )
        if hasattr(self.optimizer, "fp32_groups"):  # bf16 at stage 0
            # DeepSpeed creates the state by a step on zero gradients. That step would count in
            # Adam's bias correction.
            self.optimizer.optimizer.state.clear()
        self.scale = float(settings["train_batch_size"])
        self.tables = ItemTables(objective.network, masters, training)
        self.comm = ProcessGroup()

    def forward_backward(self, batch: Batch, pass_: Pass) -> dict[str, Tensor]:
        """See `Engine`. DeepSpeed averages over passes and ranks; `scale` makes a sum of it."""
        if self.pass_index == 0:
            self.engine.train()
        sums: dict[str, Tensor] = self.engine(batch, pass_)
        self.engine.backward(sums.pop("loss") * self.scale)
        self.pass_index += 1
        if self.pass_index < self.passes:
            self.engine.step()  # before the last pass it only counts
        return sums

    @torch.no_grad()
    def forward(self, batch: Batch, pass_: Pass) -> dict[str, Tensor]:
        """See `Engine`. The pass decides whether dropout is on."""
        self.engine.train(not pass_.turns_dropout_off)
        sums: dict[str, Tensor] = self.engine(batch, pass_)
        return sums

    def step(self, lr_factor: float) -> dict[str, Tensor | float]:
        """See `Engine`."""
        assert self.pass_index == self.passes, "a step needs all of its passes"
        self.pass_index = 0
        rates = set_learning_rates(self.optimizer, lr_factor)
        plain_norm = self._plain_grad_norm() if self.zero_stage == 0 else None
        self.engine.step()
        dense_norm = self.engine.get_global_grad_norm() if plain_norm is None else plain_norm
        # DeepSpeed divides by passes in every backward pass, but by ranks only where it sums
        # gradients itself, which it does not do for the tables.
        grad_norm = self.tables.step(lr_factor, dense_norm, self.comm, self.scale / self.passes)
        return {"grad_norm": grad_norm, **{f"lr/{name}": rate for name, rate in rates.items()}}

    def save(self, folder: Path) -> None:
        """See `Engine`. DeepSpeed's own files are pickled and tied to one world size, so we write
        fragments of parameters instead."""
        rank = torch.distributed.get_rank()
        if rank == 0:
            save_fragments(folder, rank, chain(self._fragments(), self.tables.fragments()))
        elif self.zero_stage > 0:  # at stage 0 all ranks hold the same values, as of tables
            save_fragments(folder, rank, self._fragments())

    def load(self, folder: Path, weights: dict[str, Tensor]) -> None:
        """See `Engine`."""
        for name, target in self.objective.network.state_dict(keep_vars=True).items():
            with self._whole([target], modifier_rank=0), torch.no_grad():
                target.copy_(weights[name])
        load_fragments(folder, chain(self._fragments(), self.tables.fragments()))

    def network_weights(self) -> dict[str, Tensor] | None:
        """See `Engine`. Under ZeRO-3 the weights are gathered one parameter at a time."""
        weights = {}
        for name, tensor in self.objective.network.state_dict(keep_vars=True).items():
            with self._whole([tensor]):
                if torch.distributed.get_rank() == 0:
                    weights[name] = tensor.detach().cpu().clone()
        return weights or None

    def _whole(self, tensors: list[Tensor], modifier_rank: int | None = None) -> Any:
        """A context in which partitioned tensors of ZeRO-3 are whole.

        Changes that `modifier_rank` makes inside the context are kept.
        """
        is_partitioned = self.zero_stage == 3
        return self.deepspeed.zero.GatheredParameters(
            tensors, modifier_rank=modifier_rank, enabled=is_partitioned
        )

    def _fragments(self) -> Iterator[Fragment]:
        """The parts that this rank owns of the tensors that DeepSpeed's optimizer updates."""
        named = [(n, p) for n, p in self.objective.network.named_parameters() if p.requires_grad]
        if self.zero_stage == 0:
            return self._replicated(named)
        return self._partition_3(named) if self.zero_stage == 3 else self._partition_1_2(named)

    def _replicated(self, named: list[tuple[str, nn.Parameter]]) -> Iterator[Fragment]:
        plain = self.optimizer
        masters: dict[nn.Parameter, Tensor] = {}
        if hasattr(self.optimizer, "fp32_groups"):  # bf16
            plain = self.optimizer.optimizer
            for low, high in zip(
                self.optimizer.fp16_groups, self.optimizer.fp32_groups, strict=True
            ):
                masters |= dict(zip(low, high, strict=True))
        return whole_fragments(((name, masters.get(p, p)) for name, p in named), plain)

    def _partition_1_2(self, named: list[tuple[str, nn.Parameter]]) -> Iterator[Fragment]:
        for name, parameter in named:
            mapping: Any = parameter._hp_mapping  # type: ignore[attr-defined]
            if mapping is None:
                continue  # this rank owns no part of it
            here, there = mapping.hp_fragment_address, mapping.lp_fragment_address
            flat = self.optimizer.single_partition_of_fp32_groups[mapping.param_group_index]
            plain = self.optimizer.optimizer
            yield make_fragment(name, there.start, flat, here.start, here.numel, plain)

    def _partition_3(self, named: list[tuple[str, nn.Parameter]]) -> Iterator[Fragment]:
        for name, parameter in named:
            group, offset, length = self.optimizer.grad_position[
                self.optimizer.get_param_id(parameter)
            ]
            start = length * torch.distributed.get_rank()
            real = min(length, parameter.ds_numel - start)  # type: ignore[attr-defined]
            if real > 0:  # on the last ranks a partition may be padding alone
                flat = self.optimizer.fp32_partitioned_groups_flat[group]
                yield make_fragment(name, start, flat, offset, real, self.optimizer.optimizer)

    def _plain_grad_norm(self) -> Tensor | None:
        # At stage 0 in float32, DeepSpeed computes a gradient norm only if it clips.
        grads = [p.grad for p in self.objective.parameters() if p.grad is not None]
        return nn.utils.get_total_norm(grads) if grads else None
