"""The optimizer: one AdamW, with a named group for the backbone and one for the policy."""

import torch

from skiprec.config import TrainingConfig
from skiprec.network import SkipRecNetwork


def build_optimizer(network: SkipRecNetwork, training: TrainingConfig) -> torch.optim.AdamW:
    """Groups "backbone" and "policy" (when there is one), each with its `base_lr`."""
    backbone, policy = [], []
    for name, parameter in network.named_parameters():
        if name.startswith("policy."):
            policy.append(parameter)
        elif training.freeze_backbone:
            parameter.requires_grad_(False)
        else:
            backbone.append(parameter)
    policy_lr = training.policy_learning_rate or training.learning_rate
    groups = [
        {"params": parameters, "name": name, "lr": lr, "base_lr": lr}
        for name, parameters, lr in (
            ("backbone", backbone, training.learning_rate),
            ("policy", policy, policy_lr),
        )
        if parameters
    ]
    return torch.optim.AdamW(
        groups, weight_decay=training.weight_decay, betas=(0.9, 0.999), fused=True
    )


def set_learning_rates(optimizer: torch.optim.Optimizer, factor: float) -> dict[str, float]:
    """Sets every group to `factor * base_lr`; returns the rates by group name."""
    for group in optimizer.param_groups:
        group["lr"] = factor * group["base_lr"]
    return {group["name"]: group["lr"] for group in optimizer.param_groups}
