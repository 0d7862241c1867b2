"""`[model]`: the backbone or baseline."""

from typing import Literal, Self

from pydantic import Field, PositiveInt, model_validator

from skiprec.config.section import Section

TimeMode = Literal["history", "request"]


class ModelConfig(Section):
    """The backbone, or a baseline without residual blocks.

    `skiprec/models/registry.py` lists the backbones and the options that apply to each of them. An
    option that does not apply to the chosen backbone is an error.
    """

    backbone: str = "nextitnet_plus"
    """Name of the backbone or baseline."""
    num_blocks: int = Field(16, ge=1)
    """Number of residual blocks, which are the units that a policy keeps or skips. For a baseline:
    number of layers."""
    width: int = Field(64, ge=1)
    """Number of channels of the item vectors and of every block."""
    dropout: float = Field(0.0, ge=0, lt=1)
    """Dropout rate of the embedded items and of the output of every block."""
    dilations: tuple[PositiveInt, ...] | None = Field(None, min_length=1)
    """Dilations of the first convolution of the blocks; the second has twice the dilation. Block i
    takes entry i modulo the length of this list. None: 1, 4."""
    num_heads: int | None = Field(None, ge=1)
    """Number of attention heads of a block. None: 2."""
    max_positions: int | None = Field(None, ge=1)
    """Longest input, in items, that the table of learned positions covers. None: 200."""
    time: TimeMode | None = None
    """What the blocks read of the times of the interactions. `history`: at each position, the time
    from every earlier item to the item there. `request`: the time from every earlier item to the
    next one, which is the moment of the request in serving; published results of HSTU read it.
    None: no times."""
    final_norm: bool | None = None
    """Whether a LayerNorm stands between the last block and the item scores. None: no norm."""
    exits: tuple[PositiveInt, ...] | None = Field(None, min_length=1)
    """Depths, rising, at which a row may leave the network, each with a LayerNorm of its own before
    the one head; the last one is `num_blocks`. A network without a policy is trained to be good at
    all of them (see `[loss]`). None: rows leave after the last block."""
    exit_readouts: bool | None = None
    """Whether exits add up: each one reads its state by a hidden layer and a LayerNorm of its own,
    and a row is scored by the sum of the readouts up to the exit at which it leaves. Only with
    `exits`. None: a row is scored by its last state after the LayerNorm of its exit."""
    exit_readout_width: int | None = Field(None, ge=1)
    """Channels of the hidden layer of an exit, for each channel of the state. Only with
    `exit_readouts`. None: 2."""
    tied_items: bool | None = None
    """Whether items are scored by the same vectors that the network reads. None: the scores have a
    table of their own, as in the authors' code."""
    cosine_temperature: float | None = Field(None, gt=0)
    """Temperature that divides the cosine of the angle between a state and an item vector, which is
    then the item's score. None: the score is their dot product plus a bias of the item."""
    initial_scale: float | None = Field(None, gt=0)
    """Factor of the initial weights of the backbone: item vectors, convolutions and matrices. None:
    1, the scale of the authors' code."""
    stochastic_depth: float | None = Field(None, gt=0, lt=1)
    """Probability that a training row leaves out the last block, in a run without a policy. The
    probability grows linearly over the blocks, from 0 before the first. None: no block is left
    out."""

    @model_validator(mode="after")
    def _a_width_needs_readouts(self) -> Self:
        if self.exit_readout_width is not None and not self.exit_readouts:
            raise ValueError(
                "model.exit_readout_width has no effect without model.exit_readouts; remove it"
            )
        return self

    @model_validator(mode="after")
    def _exits_rise_to_all_blocks(self) -> Self:
        if self.exits is None:
            if self.exit_readouts is not None:
                raise ValueError("model.exit_readouts has no effect without model.exits; remove it")
            return self
        if list(self.exits) != sorted(set(self.exits)) or self.exits[-1] != self.num_blocks:
            raise ValueError(
                f"model.exits={list(self.exits)}; expected rising depths, of which the last is "
                f"model.num_blocks={self.num_blocks}"
            )
        if self.final_norm is False:
            raise ValueError("model.exits has a norm at each exit; remove model.final_norm=false")
        return self

    @property
    def head_has_norm(self) -> bool:
        """Whether the head itself starts with a LayerNorm. Exits bring norms of their own."""
        return bool(self.final_norm) and self.exits is None
