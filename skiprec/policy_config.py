"""The kinds of policy and what can be set for each. `policy.kind` chooses; other keys are errors.

A new kind is one class here, its name in `PolicyConfig`, and one line in `policy/registry.py`.
"""

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, PositiveInt, model_validator


class Section(BaseModel):
    """A part of the configuration: immutable, and strict about its keys."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class NoPolicy(Section):
    """Every block runs for everyone: a backbone's own run."""

    kind: Literal["none"] = "none"


class KeepAllPolicy(Section):
    """A control: as without a policy, through the policy's interface."""

    kind: Literal["keep_all"] = "keep_all"


class RandomPolicyConfig(Section):
    """A control: each block of each row by a coin."""

    kind: Literal["random"] = "random"
    keep_frac: float = Field(0.5, ge=0, le=1)


class FixedPolicyConfig(Section):
    """A control: one set of blocks for everyone."""

    kind: Literal["fixed"] = "fixed"
    keep_blocks: tuple[int, ...]


class LearnedPolicyConfig(Section):
    """The network of a learned policy.

    Slim by default, on the backbone's embedding: its own time counts against the speedup. In the
    paper it is as wide as the backbone and has an embedding of its own.
    """

    encoder: str = "conv"
    width: int = Field(32, ge=1)
    own_embedding: bool = False


class GumbelPolicyConfig(LearnedPolicyConfig):
    """Straight-through Gumbel-softmax. The options after the budget ask the policy to be personal.

    `budget` says whose mean decision is held at the target: the batch's, or each user's own; or
    "shared": users compete for the batch's through one price, in nats for all blocks, by which the
    loss counts each kept block. The price grows by a factor exp(budget_weight * (kept - target)) a
    step, where kept is what serving would keep. `budget_warmup_frac` is the part of training over
    which a budget's weight grows from 0. `entropy_weight` rewards undecided policies, so that a
    block's logit does not saturate before it is known what the block is worth to a user: it settles
    in proportion to that worth less the price. The weight falls evenly to 0. `information_weight`
    rewards, for each block, the entropy of the mean of P(keep) minus the mean of its entropy: the
    information that decisions carry of the user. `guide_weight` weighs a free label: P(keep) should
    be 0 for rows that the shallowest half of the blocks already serves (CANet's guide loss, ICDM
    2022). `learn_from="last_position"` lets the cross-entropy move the policy there alone, where it
    has not read the target; None: at all positions, as the paper.
    """

    kind: Literal["gumbel"] = "gumbel"
    logits: Literal["raw", "sigmoid"] = "raw"
    initial_keep_prob: float | None = Field(None, gt=0, lt=1)
    temperature_start: float = Field(2.0, gt=0)
    temperature_end: float = Field(0.5, gt=0)
    noise_at_inference: bool = False
    target_keep_frac: float | None = Field(None, gt=0, le=1)
    budget: Literal["batch", "user", "shared"] = "batch"
    budget_weight: float | None = Field(None, gt=0)
    budget_warmup_frac: float | None = Field(None, gt=0, le=1)
    entropy_weight: float | None = Field(None, gt=0)
    information_weight: float | None = Field(None, gt=0)
    guide_weight: float | None = Field(None, gt=0)
    learn_from: Literal["last_position"] | None = None

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


class ReinforcePolicyConfig(LearnedPolicyConfig):
    """Self-critical reinforcement learning (SCST); L = L_CE + beta * L_RL.

    The reward of a decision is 1 - (kept / N)^2 when the target is among the `reward_cut` best at
    the last position, else -gamma. "released_code" is the reward of the authors' program, which
    pays for keeping blocks: (kept / N)^2 on a hit. `prob_bound` a makes a block's sampling
    probability a p + (1 - a)(1 - p) (BlockDrop; 1 leaves it free). `entropy_weight` rewards
    undecided policies. `free_blocks_frac` is the part of training in which blocks become free to be
    skipped from the last to the first; the others are kept.
    """

    kind: Literal["reinforce"] = "reinforce"
    initial_keep_prob: float = Field(0.85, gt=0, lt=1)
    beta: float = Field(1.0, gt=0)
    gamma: float = Field(0.5, ge=0)
    reward: Literal["slide", "released_code"] = "slide"
    reward_cut: int = Field(5, ge=1)
    prob_bound: float = Field(0.8, gt=0.5, le=1)
    entropy_weight: float | None = Field(None, gt=0)
    free_blocks_frac: float | None = Field(None, gt=0, le=1)


class CostPolicyConfig(LearnedPolicyConfig):
    """Supervised: predicts what the first n blocks cost this user in cross-entropy against all.

    `nest_sizes` are the n that are offered; all blocks are offered always. Serving takes the n with
    the smallest predicted cost + price * n / N, in nats. The price is set on validation rows so
    that `target_keep_frac` of the block calls are kept, and can be set anew for serving without
    training again (`evaluation.keep_frac`). While training, a row runs the n of serving or, with
    probability `explore_frac`, any n of the nest. `cost_weight` weighs the predictor's error.
    """

    kind: Literal["cost"] = "cost"
    nest_sizes: tuple[PositiveInt, ...] = Field(min_length=1)
    target_keep_frac: float = Field(0.5, gt=0, le=1)
    explore_frac: float = Field(0.5, ge=0, le=1)
    cost_weight: float = Field(1.0, gt=0)

    @model_validator(mode="after")
    def _sizes_rise(self) -> Self:
        if list(self.nest_sizes) != sorted(set(self.nest_sizes)):
            raise ValueError(
                f"policy.nest_sizes={list(self.nest_sizes)}; expected rising numbers of blocks"
            )
        return self


PolicyConfig = Annotated[
    NoPolicy
    | KeepAllPolicy
    | RandomPolicyConfig
    | FixedPolicyConfig
    | GumbelPolicyConfig
    | ReinforcePolicyConfig
    | CostPolicyConfig,
    Field(discriminator="kind"),
]
POLICY_CONFIGS: dict[str, type[Section]] = {
    section.model_fields["kind"].default: section
    for section in PolicyConfig.__origin__.__args__  # type: ignore[attr-defined]
}


def policy_section(kind: str, **options: Any) -> Any:
    """The section of one kind, from its options."""
    if kind not in POLICY_CONFIGS:
        raise ValueError(f"unknown policy.kind {kind!r}; there are: {', '.join(POLICY_CONFIGS)}")
    return POLICY_CONFIGS[kind](**options)
