"""Options of the policy that predicts costs."""

from typing import ClassVar, Literal, Self

from pydantic import Field, PositiveInt, model_validator

from skiprec.config.loss import LossConfig
from skiprec.config.model import ModelConfig
from skiprec.policy.section import LearnedSection


class Options(LearnedSection):
    """The policy predicts what a shallower net costs each user, and keeps what is worth its price.

    It is trained by supervision: the cost of the first n blocks is their cross-entropy at the last
    position minus that of all blocks. Serving takes the n with the smallest predicted cost
    + price * n / N, in nats.
    """

    has_serving_knob: ClassVar[bool] = True

    kind: Literal["cost"] = "cost"
    """Predict costs."""
    nest_sizes: tuple[PositiveInt, ...] = Field(min_length=1)
    """The numbers of first blocks that are offered beside all blocks, rising."""
    target_keep_frac: float = Field(0.5, gt=0, le=1)
    """Share of block calls that is kept. The price is set on validation rows to reach it;
    `evaluation.keep_frac` sets it anew without training."""
    explore_frac: float = Field(0.5, ge=0, le=1)
    """Probability that a training row runs any offered number of blocks instead of the cheapest."""
    cost_weight: float = Field(1.0, gt=0)
    """Weight of the squared error of the predicted costs."""

    @model_validator(mode="after")
    def _sizes_rise(self) -> Self:
        if list(self.nest_sizes) != sorted(set(self.nest_sizes)):
            raise ValueError(
                f"policy.nest_sizes={list(self.nest_sizes)}; expected rising numbers of blocks"
            )
        return self

    def check(self, model: ModelConfig, loss: LossConfig) -> None:
        """See `PolicySection`."""
        if self.nest_sizes[-1] > model.num_blocks:
            raise ValueError(
                f"policy.nest_sizes={list(self.nest_sizes)}, but the backbone has "
                f"{model.num_blocks} blocks"
            )
        if self.nest_sizes[0] == model.num_blocks:
            raise ValueError(
                f"policy.nest_sizes={list(self.nest_sizes)} offers nothing but all "
                f"{model.num_blocks} blocks; name smaller numbers"
            )
