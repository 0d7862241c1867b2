"""The common base of every kind's `[policy]` section. It imports only pydantic and sections."""

from typing import TYPE_CHECKING, ClassVar, Literal, Self

from pydantic import Field, model_validator

from skiprec.config.loss import LossConfig
from skiprec.config.model import ModelConfig
from skiprec.config.section import Section

Feature = Literal["state", "length", "entropy", "margin"]


class PolicySection(Section):
    """The base of a kind's options.

    The class variables are facts about a kind. Other code reads them, so that no module outside of
    the kind's folder has to name the kind.
    """

    decides: ClassVar[bool] = True
    """Whether there is a policy at all."""
    is_learned: ClassVar[bool] = False
    """Whether the policy has weights that are trained."""
    skips: ClassVar[bool] = True
    """Whether the policy ever skips a block."""
    trains_gathered: ClassVar[bool] = True
    """Whether the policy can be trained without the outputs of skipped blocks. False for a policy
    whose gradient goes through `keep_BL`: it needs masked execution."""
    has_price_knob: ClassVar[bool] = False
    """Whether `evaluation.keep_frac` can set the price of a trained policy, as its knob is a
    `PriceKnob`."""

    if TYPE_CHECKING:
        kind: str  # each kind declares it as the literal of its own name

    def check(self, model: ModelConfig, loss: LossConfig) -> None:
        """Raises ValueError if an option contradicts another section of the configuration."""

    @property
    def caution(self) -> str | None:
        """A warning for the readers of a report on this policy; None without a warning."""
        return None


class LearnedSection(PolicySection):
    """The common options of every policy that has its own network.

    A kind that declares an option with the name of another kind's option gets the tests of that
    option, too. The option must then mean the same.

    The network is slim by default and reads the backbone's item vectors, because its own time
    reduces the speedup. In the paper the network is as wide as the backbone and has its own
    embedding.
    """

    is_learned: ClassVar[bool] = True

    encoder: str = "conv"
    """Encoder of the history: `conv` (two light residual blocks), `gru` (one layer) or `attention`
    (one block)."""
    width: int = Field(32, ge=1)
    """Number of channels of the policy's network."""
    reads_after: int | None = Field(None, ge=1)
    """Number of first blocks that run for every row before the policy decides about the others. It
    then reads the last position's state behind them, by one hidden layer of `width` units, instead
    of the history by a network of its own. Where the backbone is trained, too, the gradient of
    `gumbel` and `reinforce` reaches these blocks; that of `cost` does not. None: the policy reads
    the history."""
    features: tuple[Feature, ...] | None = Field(None, min_length=1)
    """What the policy reads after the first blocks: `state`, the normalised state; `length`, the
    logarithm of the number of items; `entropy` and `margin` of the scores that the head gives to
    the state, which cost one use of the head. Only with `reads_after`. None: state and length."""
    own_embedding: bool = False
    """Whether the policy has its own item table. False: it reads the backbone's item vectors
    through a projection, and its gradient reaches the backbone's table."""

    @property
    def state_features(self) -> tuple[Feature, ...]:
        """What a policy with `reads_after` reads."""
        return self.features or ("state", "length")

    @model_validator(mode="after")
    def _a_state_needs_no_encoder(self) -> Self:
        if self.features is not None and self.reads_after is None:
            raise ValueError("policy.features has no effect without policy.reads_after; remove it")
        if self.features is not None and len(set(self.features)) < len(self.features):
            raise ValueError(f"policy.features={list(self.features)} names one of them twice")
        for option in ("encoder", "own_embedding") if self.reads_after is not None else ():
            if getattr(self, option) != type(self).model_fields[option].default:
                raise ValueError(
                    f"policy.{option} has no effect with policy.reads_after, which replaces the "
                    "network that reads the history; remove it"
                )
        return self

    def check(self, model: ModelConfig, loss: LossConfig) -> None:
        """See `PolicySection`."""
        if self.reads_after is not None and self.reads_after >= model.num_blocks:
            raise ValueError(
                f"policy.reads_after={self.reads_after} leaves no block to decide about; the "
                f"backbone has {model.num_blocks}"
            )
        target = getattr(self, "target_keep_frac", None)
        least = (self.reads_after or 0) / model.num_blocks
        if target is not None and target < least:
            raise ValueError(
                f"policy.target_keep_frac={target} cannot be reached, because every row runs "
                f"policy.reads_after={self.reads_after} of {model.num_blocks} blocks; expected "
                f"{least:.3g} or more"
            )
        reads_scores = {"entropy", "margin"} & set(self.features or ())
        if reads_scores and model.exits is not None and self.reads_after not in model.exits:
            raise ValueError(
                f"policy.features={list(self.features or ())} reads scores after "
                f"policy.reads_after={self.reads_after} blocks, where model.exits="
                f"{list(model.exits)} has no exit"
            )
