"""Backbones by name. A new backbone is one file beside this one and one line here.

A backbone is a list of blocks; a block maps (x_TBD, is_item_TB1) to its residual branch, has
`reset_parameters(generator)`, mixes no rows, is causal, and keeps padding at zero. The generic
tests in `tests/unit/models` hold every registered backbone to that.
"""

from collections.abc import Callable

from torch import nn

from skiprec.config import ModelConfig
from skiprec.models.nextitnet import nextitnet_blocks, nextitnet_plus_blocks

BACKBONES: dict[str, Callable[[ModelConfig], list[nn.Module]]] = {
    "nextitnet": nextitnet_blocks,
    "nextitnet_plus": nextitnet_plus_blocks,
}


def build_blocks(config: ModelConfig) -> list[nn.Module]:
    """The blocks of `config.backbone`, not yet initialised."""
    if config.backbone not in BACKBONES:
        raise ValueError(
            f"unknown model.backbone {config.backbone!r}; there are: {', '.join(BACKBONES)}"
        )
    return BACKBONES[config.backbone](config)
