"""`[loss]`: the cross-entropy of the next item."""

from typing import Literal, Self

from pydantic import Field, model_validator

from skiprec.config.section import Section


class LossConfig(Section):
    """The loss of the backbone: cross-entropy of the next item, averaged over all positions."""

    kind: Literal["full", "sampled"] = "full"
    """Items of the softmax. `full`: the whole catalogue. `sampled`: the target and some negatives,
    with log-Q correction."""
    num_negatives: int | None = Field(None, ge=1)
    """Number of negatives of a training step, which all its rows share. Only, and always, with
    `kind = "sampled"`."""
    last_position_weight: float | None = Field(None, gt=0)
    """Weight of an extra term: the mean over rows of the cross-entropy at the last position.
    Serving uses this position, and its target is the only one that the policy has not read. None:
    no extra term."""

    @model_validator(mode="after")
    def _negatives_belong_to_sampled(self) -> Self:
        if self.kind == "full" and self.num_negatives is not None:
            raise ValueError("loss.num_negatives has no effect with loss.kind='full'; remove it")
        if self.kind == "sampled" and self.num_negatives is None:
            raise ValueError("loss.kind='sampled' needs loss.num_negatives")
        return self
