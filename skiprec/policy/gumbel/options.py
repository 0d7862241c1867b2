"""Options of SkipRec-Gumbel."""

import math
from typing import ClassVar, Literal, Self

from pydantic import Field, model_validator

from skiprec.config.loss import LossConfig
from skiprec.config.model import ModelConfig
from skiprec.policy.section import LearnedSection


class Options(LearnedSection):
    """SkipRec-Gumbel: the policy learns by straight-through Gumbel-softmax.

    The cross-entropy does not reward skipped blocks, so the policy needs a budget. The options
    after the budget make the decisions of different users differ.
    """

    trains_gathered: ClassVar[bool] = False  # the outputs of skipped blocks carry its gradient

    kind: Literal["gumbel"] = "gumbel"
    """SkipRec-Gumbel: learn decisions by straight-through Gumbel-softmax."""
    logits: Literal["raw", "sigmoid"] = "raw"
    """Logits of the two-way softmax of keep and skip. `raw`: the output of the policy's network.
    `sigmoid`: squashed as in the authors' code, which bounds P(keep) to (0.27, 0.73)."""
    initial_keep_prob: float | None = Field(None, gt=0, lt=1)
    """Probability of keeping a block before training. None: 0.85, or 0.5 with
    `logits = "sigmoid"`."""
    temperature_start: float = Field(2.0, gt=0)
    """Temperature of the relaxed samples at the first step. It changes geometrically to
    `temperature_end`."""
    temperature_end: float = Field(0.5, gt=0)
    """Temperature at the last step. It affects the gradient, not how often a block is kept."""
    noise_at_inference: bool = False
    """Whether serving samples, too, as in the authors' code. The noise is a function of the
    request, so the same request always gets the same answer."""
    target_keep_frac: float | None = Field(None, gt=0, le=1)
    """Share of block calls that the budget aims to keep. Needs `budget_weight`. None: no budget."""
    budget: Literal["batch", "user", "shared"] = "batch"
    """Share of kept blocks that is held at the target. `batch`: the mean over a global batch.
    `user`: the share of each user. `shared`: the mean share that serving would keep, by a price
    that each kept block adds to the loss and that rises while this share is above the target."""
    budget_weight: float | None = Field(None, gt=0)
    """Weight of the squared distance to the target. With `budget = "shared"`: rate of the price; a
    step multiplies the price by exp(weight * (kept share - target)). Needs `target_keep_frac`."""
    budget_warmup_frac: float | None = Field(None, gt=0, le=1)
    """Share of the training in which the weight of the budget grows linearly from 0. None: the full
    weight from the first step."""
    entropy_weight: float | None = Field(None, gt=0)
    """Weight of an entropy bonus at the first step; it falls linearly to 0. The bonus stops the
    logits from saturating before the policy has learned what each block is worth to each user.
    None: no bonus."""
    information_weight: float | None = Field(None, gt=0)
    """Weight of a bonus for the information that decisions carry about users: the entropy of the
    mean P(keep) minus the mean entropy of P(keep), averaged over blocks. None: no bonus."""
    guide_weight: float | None = Field(None, gt=0)
    """Weight of the guide loss of CANet (ICDM 2022): rows whose target the first half of the blocks
    already ranks among the 5 best items should skip the second half. None: no guide loss."""
    learn_from: Literal["last_position"] | None = None
    """Positions whose cross-entropy trains the policy. `last_position`: the last one only, whose
    target the policy has not read. None: all positions, as in the paper."""

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
                "set both for a budget, or neither for no budget"
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
                "policy.budget='shared' holds decisions without noise at the target, but "
                "policy.noise_at_inference serves decisions with noise; use policy.budget='batch'"
            )
        return self

    def check(self, model: ModelConfig, loss: LossConfig) -> None:
        """See `PolicySection`."""
        super().check(model, loss)
        if self.learn_from is not None and loss.last_position_weight is not None:
            raise ValueError(
                "loss.last_position_weight with policy.learn_from='last_position' would reach the "
                "policy once for each position; remove one of the two"
            )
        if self.guide_weight and model.num_blocks == 1:
            raise ValueError(
                "policy.guide_weight has no effect on a backbone of one block, which has no second "
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
        """The temperature, geometric from `temperature_start` to `temperature_end`."""
        start, end = self.temperature_start, self.temperature_end
        return start * math.exp(progress * math.log(end / start))

    def budget_ramp(self, progress: float) -> float:
        """The factor of the budget's weight: linear from 0 to 1 over `budget_warmup_frac`."""
        if self.budget_warmup_frac is None:
            return 1.0
        return min(1.0, progress / self.budget_warmup_frac)
