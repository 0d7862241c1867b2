"""`[loss]`: next-item cross-entropy."""

from typing import Literal, Self

from pydantic import Field, model_validator

from skiprec.config.section import Section


class LossConfig(Section):
    """The loss of the backbone: cross-entropy of the next item, averaged over all positions."""

    kind: Literal["full", "sampled"] = "full"
    """`full`: softmax over the whole catalogue. `sampled`: over the target and some negatives, with
    log-Q correction."""
    num_negatives: int | None = Field(None, ge=1)
    """Number of negatives of a training step with `kind = "sampled"`, shared by all its rows."""
    last_position_weight: float | None = Field(None, gt=0)
    """Weight of an extra term: the mean over rows of the loss at the last position. That position
    is the one of serving, and the only one whose target the policy has not read. None: no extra
    term."""

    @model_validator(mode="after")
    def _negatives_belong_to_sampled(self) -> Self:
        if self.kind == "full" and self.num_negatives is not None:
            raise ValueError("loss.num_negatives has no effect with loss.kind='full'; remove it")
        if self.kind == "sampled" and self.num_negatives is None:
            raise ValueError("loss.kind='sampled' needs loss.num_negatives")
        return self
