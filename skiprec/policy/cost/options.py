"""Options of the policy that predicts costs."""

from typing import ClassVar, Literal, Self

from pydantic import Field, PositiveInt, model_validator

from skiprec.config.loss import LossConfig
from skiprec.config.model import ModelConfig
from skiprec.policy.section import LearnedSection


class Options(LearnedSection):
    """The policy predicts the cost of running fewer blocks for each user, and weighs it by a price.

    It is trained by supervision. The cost of the first n blocks is their cross-entropy at the last
    position minus the cross-entropy of all N blocks, in nats, or what they lose of MRR@20
    (`cost_in`). (With `reads_after`, rows shorter than the window also teach the costs at their
    earlier positions.) Serving runs the n blocks with the smallest predicted cost + price * n / N.
    """

    has_price_knob: ClassVar[bool] = True

    kind: Literal["cost"] = "cost"
    """Predict the cost of running fewer blocks."""
    nest_sizes: tuple[PositiveInt, ...] = Field(min_length=1)
    """Numbers n, rising: the first n blocks are an offered set, beside the set of all blocks."""
    cost_in: Literal["reciprocal_rank"] | None = None
    """What a cost is measured in. `reciprocal_rank`: how much smaller 1 / rank of the target is, 0
    behind rank 20, which is what the row takes from MRR@20. None: cross-entropy, in nats."""
    target_keep_frac: float = Field(0.5, gt=0, le=1)
    """Largest share of block calls that is kept. Each validation sets the price to reach it on the
    validation rows; `evaluation.keep_frac` changes it without training."""
    explore_frac: float = Field(0.5, ge=0, le=1)
    """Probability that a training row runs a random offered set instead of the cheapest one."""
    cost_weight: float = Field(1.0, gt=0)
    """Weight of the squared error of the predicted costs in the loss: the mean over rows and sets,
    or with `reads_after` the sum over the positions that teach, divided by all scored positions."""

    @model_validator(mode="after")
    def _sizes_rise(self) -> Self:
        if list(self.nest_sizes) != sorted(set(self.nest_sizes)):
            raise ValueError(
                f"policy.nest_sizes={list(self.nest_sizes)}; expected rising numbers of blocks"
            )
        return self

    def check(self, model: ModelConfig, loss: LossConfig) -> None:
        """See `PolicySection`."""
        super().check(model, loss)
        if self.reads_after is not None and self.nest_sizes[0] < self.reads_after:
            raise ValueError(
                f"policy.nest_sizes={list(self.nest_sizes)}, but every row runs "
                f"policy.reads_after={self.reads_after} blocks before the policy decides"
            )
        if model.exits is not None and not set(self.nest_sizes) <= set(model.exits):
            raise ValueError(
                f"policy.nest_sizes={list(self.nest_sizes)}; expected exits of the network, "
                f"model.exits={list(model.exits)}"
            )
        if self.nest_sizes[-1] > model.num_blocks:
            raise ValueError(
                f"policy.nest_sizes={list(self.nest_sizes)}, but the backbone has "
                f"{model.num_blocks} blocks"
            )
        if self.nest_sizes[0] == model.num_blocks:
            raise ValueError(
                f"policy.nest_sizes={list(self.nest_sizes)} offers only the set of all "
                f"{model.num_blocks} blocks; name smaller numbers"
            )
        if self.target_keep_frac < self.nest_sizes[0] / model.num_blocks:
            raise ValueError(
                f"policy.target_keep_frac={self.target_keep_frac} cannot be reached, because the "
                f"smallest of policy.nest_sizes={list(self.nest_sizes)} is "
                f"{self.nest_sizes[0] / model.num_blocks:.3g} of the {model.num_blocks} blocks"
            )
