"""The optimizer, with a group of weights for the backbone and a group for the policy."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from skiprec.config.training import TrainingConfig
from skiprec.network import SkipRecNetwork


def build_optimizer(network: SkipRecNetwork, training: TrainingConfig) -> torch.optim.AdamW:
    """AdamW over all trained weights, except item tables that have their own optimizer.

    Such item tables become buffers of the network (see `skiprec.training.item_tables`).
    """
    if training.item_optimizer is not None:
        for name, table in list(network.item_tables()):
            if not (training.freeze_backbone and is_backbone(name)):
                set_table(network, name, table.detach())
    trained = []
    for name, parameter in network.named_parameters():
        if training.freeze_backbone and is_backbone(name):
            parameter.requires_grad_(False)
        else:
            trained.append((name, parameter))
    return torch.optim.AdamW(
        parameter_groups(trained, training),
        weight_decay=training.weight_decay,
        betas=(0.9, 0.999),
        fused=True,
    )


def is_backbone(name: str) -> bool:
    """Whether the weight `name` belongs to the backbone, and not to the policy."""
    return not name.startswith("policy.")


def parameter_groups(
    named: Iterable[tuple[str, Tensor]], training: TrainingConfig
) -> list[dict[str, Any]]:
    """The groups "backbone" and "policy" with their `base_lr`; empty groups are left out."""
    backbone: list[Tensor] = []
    policy: list[Tensor] = []
    for name, parameter in named:
        (backbone if is_backbone(name) else policy).append(parameter)
    policy_lr = training.policy_learning_rate or training.learning_rate
    return [
        {"params": parameters, "name": name, "lr": lr, "base_lr": lr}
        for name, parameters, lr in (
            ("backbone", backbone, training.learning_rate),
            ("policy", policy, policy_lr),
        )
        if parameters
    ]


def set_table(network: SkipRecNetwork, name: str, table: Tensor) -> None:
    """Replaces the weight `name` of the network by the buffer `table` with sparse gradients."""
    owner, _, last = name.rpartition(".")
    module = network.get_submodule(owner)
    module.sparse = True  # type: ignore[assignment]  # an attribute of nn.Embedding and our heads
    delattr(module, last)
    module.register_buffer(last, table)


def set_learning_rates(optimizer: torch.optim.Optimizer, factor: float) -> dict[str, float]:
    """Sets the rate of each group to `factor * base_lr`; returns the rates by group name."""
    for group in optimizer.param_groups:
        group["lr"] = factor * group["base_lr"]
    return {group["name"]: group["lr"] for group in optimizer.param_groups}
