"""Options of SkipRec-Gumbel."""

import math
from typing import ClassVar, Literal, Self

from pydantic import Field, model_validator

from skiprec.config.loss import LossConfig
from skiprec.config.model import ModelConfig
from skiprec.policy.section import LearnedSection


class Options(LearnedSection):
    """SkipRec-Gumbel: the policy learns by straight-through Gumbel-softmax.

    Nothing in the cross-entropy asks for skipped blocks, so the policy needs a budget. The options
    after the budget push its decisions to differ between users.
    """

    trains_gathered: ClassVar[bool] = False  # skipped blocks carry the policy's gradient

    kind: Literal["gumbel"] = "gumbel"
    """SkipRec-Gumbel."""
    logits: Literal["raw", "sigmoid"] = "raw"
    """Logits of the two-way softmax. `sigmoid` squashes them as the authors' code does, which
    bounds P(keep) to (0.27, 0.73)."""
    initial_keep_prob: float | None = Field(None, gt=0, lt=1)
    """P(keep) of every block before training. None: 0.85, or 0.5 with `logits = "sigmoid"`."""
    temperature_start: float = Field(2.0, gt=0)
    """Temperature of the relaxed samples at the first step; it falls geometrically."""
    temperature_end: float = Field(0.5, gt=0)
    """Temperature at the last step. It changes the gradient, not how often a block is kept."""
    noise_at_inference: bool = False
    """Whether serving samples, too, as the authors' code does. The noise is a function of the
    request, so the same request always gets the same answer."""
    target_keep_frac: float | None = Field(None, gt=0, le=1)
    """Share of block calls that the budget asks to keep. Goes together with `budget_weight`. None:
    no budget."""
    budget: Literal["batch", "user", "shared"] = "batch"
    """What is held at the target. `batch`: the mean decision of a batch. `user`: each user's own
    share. `shared`: the mean share that serving would keep, through a price that each kept block
    adds to the loss and that rises while too much is kept."""
    budget_weight: float | None = Field(None, gt=0)
    """Weight of the squared distance to the target. With `budget = "shared"`: how fast the price
    moves; a step multiplies it by exp(weight * (kept - target))."""
    budget_warmup_frac: float | None = Field(None, gt=0, le=1)
    """Share of the training over which the weight of the budget grows from 0. None: at once."""
    entropy_weight: float | None = Field(None, gt=0)
    """Weight of an entropy bonus, which falls linearly to 0. It stops the logits from saturating
    before the policy has learned what each block is worth to each user."""
    information_weight: float | None = Field(None, gt=0)
    """Weight of a bonus for each block: the entropy of the mean P(keep) minus the mean entropy,
    which is the information that a decision carries about its user."""
    guide_weight: float | None = Field(None, gt=0)
    """Weight of a guide: rows that the shallower half of the blocks already serves should skip the
    deeper half (CANet's guide loss, ICDM 2022)."""
    learn_from: Literal["last_position"] | None = None
    """`last_position`: the cross-entropy moves the policy at the last position only, whose target
    it has not read. None: at all positions, as in the paper."""

    @model_validator(mode="after")
    def _options_agree(self) -> Self:
        if self.initial_keep_prob is None:
            default = 0.5 if self.logits == "sigmoid" else 0.85
            object.__setattr__(self, "initial_keep_prob", default)
        assert self.initial_keep_prob is not None
        if self.logits == "sigmoid" and not 0.27 < self.initial_keep_prob < 0.73:
            raise ValueError(
                f"policy.initial_keep_prob={self.initial_keep_prob} cannot be reached with "
                "policy.logits='sigmoid', which keeps P(keep) within (0.27, 0.73)"
            )
        if (self.target_keep_frac is None) != (self.budget_weight is None):
            raise ValueError(
                "policy.target_keep_frac and policy.budget_weight go together: "
                "set both for a budget, neither for none"
            )
        if self.budget_weight is None:
            for name in ("budget", "budget_warmup_frac"):
                if name in self.model_fields_set and getattr(self, name) not in (None, "batch"):
                    raise ValueError(f"policy.{name} has no effect without policy.budget_weight")
        if self.budget == "shared" and self.budget_warmup_frac is not None:
            raise ValueError(
                "policy.budget_warmup_frac does not apply to policy.budget='shared', whose price "
                "starts small and grows by itself; remove it"
            )
        if self.budget == "shared" and self.noise_at_inference:
            raise ValueError(
                "policy.budget='shared' holds decisions without noise at the target, and "
                "policy.noise_at_inference serves others; use policy.budget='batch'"
            )
        return self

    def check(self, model: ModelConfig, loss: LossConfig) -> None:
        """See `PolicySection`."""
        if self.learn_from is not None and loss.last_position_weight is not None:
            raise ValueError(
                "loss.last_position_weight with policy.learn_from='last_position' would reach the "
                "policy once for each position; remove one of them"
            )
        if self.guide_weight and model.num_blocks == 1:
            raise ValueError(
                "policy.guide_weight has no effect on a backbone of one block, which has no deeper "
                "half; remove it"
            )

    @property
    def caution(self) -> str | None:
        """See `PolicySection`."""
        if self.learn_from is not None:
            return None
        return (
            "CAUTION: in training the decisions of this policy had read the targets of all "
            "positions but the last, and a network may come to need what they tell; every control "
            "above runs in that same network. Who needs depth is shown by "
            "policy.learn_from='last_position', or against other networks of equal cost."
        )

    def temperature(self, progress: float) -> float:
        """Of the samples: geometric from `temperature_start` to `temperature_end`."""
        start, end = self.temperature_start, self.temperature_end
        return start * math.exp(progress * math.log(end / start))

    def budget_ramp(self, progress: float) -> float:
        """The share of the budget's weight that counts; grows linearly over
        `budget_warmup_frac`."""
        if self.budget_warmup_frac is None:
            return 1.0
        return min(1.0, progress / self.budget_warmup_frac)
