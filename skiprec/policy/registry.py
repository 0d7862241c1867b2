"""Policies by name. A new policy is one file beside this one and one line here.

A policy is a module (History, temperature or None) -> KeepDecision that reads nothing but the
history; None asks for the decision of serving. `tests/unit/policy` holds each of them to it.
"""

from collections.abc import Callable

from torch import nn

from skiprec.config import PolicyConfig
from skiprec.policy.controls import FixedPolicy, RandomPolicy
from skiprec.policy.learned import LearnedPolicy


def _random(config: PolicyConfig, num_items: int, width: int, num_blocks: int) -> nn.Module:
    assert config.keep_frac is not None
    return RandomPolicy(config.keep_frac, num_blocks)


def _fixed(config: PolicyConfig, num_items: int, width: int, num_blocks: int) -> nn.Module:
    assert config.keep_blocks is not None
    return FixedPolicy(config.keep_blocks, num_blocks)


def _keep_all(config: PolicyConfig, num_items: int, width: int, num_blocks: int) -> nn.Module:
    return FixedPolicy(tuple(range(num_blocks)), num_blocks)


POLICIES: dict[str, Callable[[PolicyConfig, int, int, int], nn.Module]] = {
    "keep_all": _keep_all,
    "random": _random,
    "fixed": _fixed,
    "gumbel": LearnedPolicy,
}


def build_policy(
    config: PolicyConfig, num_items: int, backbone_width: int, num_blocks: int
) -> nn.Module:
    """The policy of `config`, not yet initialised."""
    if config.kind not in POLICIES:
        raise ValueError(f"unknown policy.kind {config.kind!r}; there are: {', '.join(POLICIES)}")
    return POLICIES[config.kind](config, num_items, backbone_width, num_blocks)
