"""`[loss]`: the cross-entropy of the next item."""

from typing import Literal, Self

from pydantic import Field, model_validator

from skiprec.config.section import Section

EXIT_OPTIONS = (
    "exit_weight",
    "exits_per_step",
    "exit_positions",
    "exits_from",
    "distillation",
    "distillation_ramp",
    "distillation_temperature",
    "teacher",
)


class LossConfig(Section):
    """The loss of the backbone: cross-entropy of the next item, averaged over all positions."""

    kind: Literal["full", "sampled"] = "full"
    """Items of the softmax. `full`: the whole catalogue. `sampled`: the target and some negatives,
    with log-Q correction."""
    num_negatives: int | None = Field(None, ge=1)
    """Number of negatives of each position. Only, and always, with `kind = "sampled"`."""
    negative_sets: int | None = Field(None, ge=1)
    """Sets of negatives that a training step draws. Each position takes one of them, and positions
    with the same set share its negatives. On ML-1M with 128 negatives HSTU loses a tenth of its
    HR@10 with one set, and 64 sets cost no time. Only with `kind = "sampled"`. None: 1."""
    negatives: Literal["log_uniform", "uniform"] | None = None
    """Distribution of the negatives over the items, which come in the order of their frequency.
    `log_uniform`: frequent items more often. `uniform`: all alike. Only with `kind = "sampled"`.
    None: `log_uniform`."""
    last_position_weight: float | None = Field(None, gt=0)
    """Weight of an extra term: the mean over rows of the cross-entropy at the last position.
    Serving uses this position, and its target is the only one that the policy has not read. None:
    no extra term."""
    exit_weight: float | None = Field(None, gt=0)
    """With `model.exits`: weight of the cross-entropy of each shallower exit that a step trains.
    None: 0.5."""
    exits_per_step: Literal["two", "all"] | None = None
    """With `model.exits`: shallower exits that a step trains. `two`: the first one and another one,
    drawn for the step. `all`: each of them. None: `two`."""
    exit_positions: float | None = Field(None, gt=0, le=1)
    """With `model.exits`: share of the positions, drawn for each row, at which a step trains the
    shallower exits, because each of them costs a softmax. None: 0.5."""
    exits_from: float | None = Field(None, ge=0, lt=1)
    """With `model.exits`: progress of the training, from 0 to 1, from which on the shallower exits
    are trained; before it, a step trains the last one alone. None: 0."""
    distillation: float | None = Field(None, ge=0)
    """With `model.exits`: weight of the cross-entropy between what the teacher predicts in the same
    step, as a constant, and each shallower exit that the step trains. None: 0.5."""
    distillation_ramp: float | None = Field(None, ge=0, le=1)
    """With `model.exits`: share of the training, from `exits_from` on, in which `distillation`
    grows linearly from 0. None: 0.2."""
    distillation_temperature: float | None = Field(None, gt=0)
    """With `model.exits`: divides the scores of teacher and exits in the distillation. None: 1."""
    teacher: Literal["last", "mean"] | None = None
    """With `model.exits`: what the exits learn from. `last`: the last exit. `mean`: the mean of the
    scores of all exits. None: `last`."""

    @property
    def set_exit_options(self) -> list[str]:
        """The options that only `model.exits` gives a meaning, as far as they are set."""
        return [name for name in EXIT_OPTIONS if getattr(self, name) is not None]

    @property
    def num_sets(self) -> int:
        """`negative_sets`, or its default."""
        return self.negative_sets or 1

    @property
    def ramp(self) -> float:
        """`distillation_ramp`, or its default."""
        return 0.2 if self.distillation_ramp is None else self.distillation_ramp

    @model_validator(mode="after")
    def _distillation_has_options(self) -> Self:
        options = ("distillation_ramp", "distillation_temperature", "teacher")
        given = [name for name in options if getattr(self, name) is not None]
        if self.distillation == 0 and given:
            raise ValueError(f"loss.{given[0]} has no effect with loss.distillation=0; remove it")
        start = self.exits_from or 0.0
        if self.distillation != 0 and start + self.ramp > 1:
            raise ValueError(
                f"loss.distillation grows from loss.exits_from={start} over {self.ramp} of "
                "the training (loss.distillation_ramp), so it never reaches its weight; expected "
                "a sum of 1 or less"
            )
        return self

    @model_validator(mode="after")
    def _negatives_belong_to_sampled(self) -> Self:
        if self.kind == "full" and self.num_negatives is not None:
            raise ValueError("loss.num_negatives has no effect with loss.kind='full'; remove it")
        for name in ("negatives", "negative_sets"):
            if self.kind == "full" and getattr(self, name) is not None:
                raise ValueError(f"loss.{name} has no effect with loss.kind='full'; remove it")
        if self.kind == "sampled" and self.num_negatives is None:
            raise ValueError("loss.kind='sampled' needs loss.num_negatives")
        return self
