"""Small networks and batches for tests. Every registered name can be built."""

from typing import Any

import torch
from torch import nn

from skiprec.config.files import parse_config
from skiprec.config.model import ModelConfig
from skiprec.config.run import RunConfig
from skiprec.models.registry import BACKBONES, architecture_of
from skiprec.network import SkipRecNetwork
from skiprec.policy.kinds import OPTIONS, policy_section
from skiprec.policy.section import PolicySection
from skiprec.types import PADDING, Batch

NUM_ITEMS = 30
NUM_BLOCKS = 4
WIDTH = 8
WINDOW = 10  # 9 positions, which is shorter than the reach of the last dilations

# Forms of backbones that pass the same generic tests as the plain ones.
FORMS: dict[str, dict[str, Any]] = {
    "hstu of histories": {"backbone": "hstu", "time": "history"},
    "hstu of requests": {"backbone": "hstu", "time": "request"},
}
BACKBONE_NAMES = sorted([*BACKBONES, *FORMS])
POLICY_NAMES = sorted(kind for kind, options in OPTIONS.items() if options.decides)
# Options that a policy requires, or that make its decisions differ between rows.
POLICY_OPTIONS: dict[str, dict[str, Any]] = {
    "fixed": {"keep_blocks": (0, 2)},
    "random": {"keep_frac": 0.5},
    "gumbel": {"width": 6, "initial_keep_prob": 0.5},
    "reinforce": {"width": 6, "initial_keep_prob": 0.5},
    "cost": {"width": 6, "nest_sizes": (1, 2)},
}
LEARNED = sorted(kind for kind, options in OPTIONS.items() if options.is_learned)


def execution_of(kind: str) -> str:
    """An execution in which a kind of policy can be trained, gathered if possible."""
    return "gathered" if OPTIONS[kind].trains_gathered else "masked"


def model_config(backbone: str = "nextitnet_plus", **changes: Any) -> ModelConfig:
    small = {"num_blocks": NUM_BLOCKS, "width": WIDTH}
    return ModelConfig(**{"backbone": backbone} | FORMS.get(backbone, {}) | small | changes)


def policy_config(kind: str, **changes: Any) -> PolicySection:
    return policy_section(kind, **POLICY_OPTIONS.get(kind, {}) | changes)


def build_blocks(model: ModelConfig) -> list[nn.Module]:
    return architecture_of(model).blocks(model)


def build_network(
    model: ModelConfig, policy: PolicySection | None = None, seed: int = 0, awake: bool = True
) -> SkipRecNetwork:
    network = SkipRecNetwork(model, policy or policy_section("none"), NUM_ITEMS)
    network.reset_parameters(seed)
    if awake:
        awaken(network, seed)
    return network


def awaken(network: SkipRecNetwork, seed: int = 0) -> None:
    """Adds noise to every weight, because residual scales of 0 would hide the effect of blocks."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            parameter.add_(0.3 * noise)
            if name.endswith("embedding.table.weight"):
                parameter[PADDING].zero_()


def random_batch(
    num_rows: int, seed: int = 0, window: int = WINDOW, num_items: int = NUM_ITEMS
) -> Batch:
    """Rows with times and all lengths from `window` items down to two; the first row is full."""
    generator = torch.Generator().manual_seed(seed)
    items_BW = torch.randint(1, num_items + 1, (num_rows, window), generator=generator)
    for row in range(num_rows):
        items_BW[row, : row % (window - 1)] = PADDING
    key_B = torch.randint(-(2**62), 2**62, (num_rows,), generator=generator)
    gap_BW = torch.randint(10**6, (num_rows, window), generator=generator) ** 2
    times_BW = torch.where(items_BW == PADDING, 0, gap_BW.cumsum(1))
    return Batch(items_BW, key_B, times_BW)


def take_rows(batch: Batch, rows: Any, start: int = 0) -> Batch:
    """Some rows of a batch, from the column `start` on."""
    assert batch.times_BW is not None
    return Batch(batch.items_BW[rows, start:], batch.key_B[rows], batch.times_BW[rows, start:])


def run_config(policy: str = "none", **changes: Any) -> RunConfig:
    """A tiny run on the torch engine. `changes` are dotted keys with `__` for the dot."""
    tree: dict[str, Any] = {
        "name": "tiny",
        "data": {"path": "unused"},
        "model": {"num_blocks": NUM_BLOCKS, "width": WIDTH},
        "policy": {"kind": policy, **POLICY_OPTIONS.get(policy, {})},
        "loss": {},
        "training": {
            "engine": "torch",
            "global_batch_rows": 12,
            "execution": "dense" if policy == "none" else "masked",
        },
    }
    for key, value in changes.items():
        section, _, leaf = key.partition("__")
        if leaf:
            tree.setdefault(section, {})[leaf] = value
        else:
            tree[key] = value
    return parse_config(tree, "test")
