"""Backbones and baselines by name. A new one is one file beside this one and one line here.

A backbone is a list of blocks. A block maps (x_TBD, context_TBC) to its residual branch, has
`reset_parameters(generator)`, mixes no rows, is causal, and keeps padding at zero. The context is
`is_item_TB1`, and with `model.time` what `read_times` makes of the times. The generic tests in
`tests/unit/models` check this contract for every registered backbone. A baseline is one module with
the same contract, but its output is not a residual branch, so no part can be skipped.
"""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor, nn

from skiprec.config.model import ModelConfig, TimeMode
from skiprec.models.caser import caser_encoder
from skiprec.models.gru4rec import gru4rec_encoder
from skiprec.models.head import item_head
from skiprec.models.hstu import hstu_blocks, time_buckets
from skiprec.models.ligr import ligr_blocks
from skiprec.models.nextitnet import dilation_cycle, nextitnet_blocks, nextitnet_plus_blocks
from skiprec.models.nfm import nfm_encoder, nfm_head
from skiprec.models.sasrec import end_positions, sasrec_plus_authors_blocks, sasrec_plus_blocks


@dataclass(frozen=True)
class Architecture:
    """The parts of a backbone or baseline.

    Args:
        blocks: makes the blocks of a backbone, or a list of the one module of a baseline.
        is_residual: whether the blocks are residual branches, which a policy can skip.
        options: the keys of `OPTIONAL` that have an effect.
        entry: makes the module that changes the embedded items before the first block, such as
            learned positions. None: there is no such module.
        head: makes the head from (config, num_items).
        read_times: makes what the blocks read of `times_BW` from (times_BW, model.time):
            `time_TBC`, numbers that bf16 holds. None: the blocks read no times.
    """

    blocks: Callable[[ModelConfig], list[nn.Module]]
    is_residual: bool = True
    options: frozenset[str] = frozenset()
    entry: Callable[[ModelConfig], nn.Module] | None = None
    head: Callable[[ModelConfig, int], nn.Module] = item_head
    read_times: Callable[[Tensor, TimeMode], Tensor] | None = None


ATTENTION_OPTIONS = frozenset({"num_heads", "max_positions"})
BACKBONES: dict[str, Architecture] = {
    "nextitnet": Architecture(nextitnet_blocks, options=frozenset({"dilations"})),
    "nextitnet_plus": Architecture(nextitnet_plus_blocks, options=frozenset({"dilations"})),
    "sasrec_plus": Architecture(sasrec_plus_blocks, options=ATTENTION_OPTIONS, entry=end_positions),
    "sasrec_plus_authors": Architecture(
        sasrec_plus_authors_blocks, options=ATTENTION_OPTIONS, entry=end_positions
    ),
    "hstu": Architecture(
        hstu_blocks,
        options=ATTENTION_OPTIONS | {"time"},
        entry=end_positions,
        read_times=time_buckets,
    ),
    "ligr": Architecture(ligr_blocks, options=ATTENTION_OPTIONS, entry=end_positions),
}
BASELINES: dict[str, Architecture] = {
    "gru4rec": Architecture(gru4rec_encoder, is_residual=False),
    "caser": Architecture(caser_encoder, is_residual=False),
    "nfm": Architecture(nfm_encoder, is_residual=False, head=nfm_head),
}
# The keys of `ModelConfig` that only backbones read, and those that only some architectures read.
NEED_BLOCKS = ("stochastic_depth", "final_norm", "exits", "tied_items", "cosine_temperature")
OPTIONAL = ("dilations", "num_heads", "max_positions", "time")


def architecture_of(config: ModelConfig) -> Architecture:
    """The architecture of `config.backbone`.

    Raises:
        ValueError: the name is unknown, or an option has no effect on this architecture.
    """
    known = BACKBONES | BASELINES
    if config.backbone not in known:
        raise ValueError(
            f"unknown model.backbone {config.backbone!r}; there are: {', '.join(known)}"
        )
    architecture = known[config.backbone]
    for option in OPTIONAL:
        if getattr(config, option) is not None and option not in architecture.options:
            raise ValueError(
                f"model.{option} has no effect with model.backbone={config.backbone!r}; remove it"
            )
    for option in () if architecture.is_residual else NEED_BLOCKS:
        if getattr(config, option) is not None:
            raise ValueError(
                f"model.{option} has no effect with model.backbone={config.backbone!r}, which has "
                "no residual blocks; remove it"
            )
    return architecture


def block_cycle(config: ModelConfig) -> int:
    """The number of blocks after which the shapes and dilations of a backbone repeat."""
    has_dilations = "dilations" in architecture_of(config).options
    return len(dilation_cycle(config)) if has_dilations else 1
