"""Policies by name. A new policy is one file beside this one, its section in
`policy_config.py`, and one line here.

A policy is a module (History, progress or None) -> KeepDecision that reads nothing but the history.
`progress` says how far training is, from 0 to 1, and lets a policy sample; None asks for the
decision of serving. `tests/unit/policy` holds each of them to it.
"""

from collections.abc import Callable
from typing import Any

from torch import nn

from skiprec.policy.controls import FixedPolicy, RandomPolicy
from skiprec.policy.cost import CostPolicy
from skiprec.policy.gumbel import GumbelPolicy
from skiprec.policy.reinforce import ReinforcePolicy
from skiprec.policy_config import FixedPolicyConfig, PolicyConfig, RandomPolicyConfig


def _random(config: RandomPolicyConfig, num_items: int, width: int, num_blocks: int) -> nn.Module:
    return RandomPolicy(config.keep_frac, num_blocks)


def _fixed(config: FixedPolicyConfig, num_items: int, width: int, num_blocks: int) -> nn.Module:
    return FixedPolicy(config.keep_blocks, num_blocks)


def _keep_all(config: PolicyConfig, num_items: int, width: int, num_blocks: int) -> nn.Module:
    return FixedPolicy(tuple(range(num_blocks)), num_blocks)


POLICIES: dict[str, Callable[[Any, int, int, int], nn.Module]] = {
    "keep_all": _keep_all,
    "random": _random,
    "fixed": _fixed,
    "gumbel": GumbelPolicy,
    "reinforce": ReinforcePolicy,
    "cost": CostPolicy,
}


def build_policy(
    config: PolicyConfig, num_items: int, backbone_width: int, num_blocks: int
) -> nn.Module:
    """The policy of `config`, not yet initialised."""
    if config.kind not in POLICIES:
        raise ValueError(f"unknown policy.kind {config.kind!r}; there are: {', '.join(POLICIES)}")
    return POLICIES[config.kind](config, num_items, backbone_width, num_blocks)
