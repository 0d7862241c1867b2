"""`[model]`: the backbone."""

from pydantic import Field, PositiveInt

from skiprec.config.section import Section


class ModelConfig(Section):
    """The backbone, or a baseline without residual blocks.

    An option that is None takes the default of the chosen backbone. `skiprec/models/registry.py`
    lists the backbones and the options that each of them has.
    """

    backbone: str = "nextitnet_plus"
    """Name of the backbone or baseline."""
    num_blocks: int = Field(16, ge=1)
    """Number of residual blocks, the unit that a policy keeps or skips. For a baseline: layers."""
    width: int = Field(64, ge=1)
    """Number of channels of the item vectors and of every block."""
    dropout: float = Field(0.0, ge=0, lt=1)
    """Dropout rate on the embedded items and on the output of every block."""
    dilations: tuple[PositiveInt, ...] | None = Field(None, min_length=1)
    """Dilations of the convolutions; block i takes entry i modulo the length of this list."""
    num_heads: int | None = Field(None, ge=1)
    """Number of attention heads of a block."""
    max_positions: int | None = Field(None, ge=1)
    """Longest input, in items, that the table of learned positions covers."""
    stochastic_depth: float | None = Field(None, gt=0, lt=1)
    """Rate at which the last block is left out of a row while a run without a policy trains. The
    rate grows linearly from 0 before the first block. None: no block is left out."""
