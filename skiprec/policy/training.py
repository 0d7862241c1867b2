"""What a kind of policy adds to the training of a network."""

from collections.abc import Callable

from torch import Tensor

from skiprec.config.run import RunConfig
from skiprec.network import SkipRecNetwork
from skiprec.policy.kinds import class_of
from skiprec.types import Batch, KeepDecision, Pass

# The numbers that a policy computed for all validation rows of all ranks: fields of `KeepDecision`
# by name, `[rows, …]` each. Calling it is a collective.
DecideRows = Callable[[], dict[str, Tensor]]


class PolicyTraining:
    """The moments of training at which a policy may act. This base, a control's, does nothing.

    A learned kind overrides what it needs in its `training.py`. Every rank calls each moment at the
    same place. A loss must not change any state: what moves without a gradient moves in
    `after_step`.
    """

    def __init__(self, config: RunConfig, network: SkipRecNetwork) -> None:
        self.options = config.policy
        self.network = network
        self.policy = network.policy
        self.execution = config.training.execution

    @property
    def needs_statistics(self) -> bool:
        """Whether a step starts with a pass that sums `statistics` over the global batch."""
        return False

    def statistics(self, decision: KeepDecision) -> dict[str, Tensor]:
        """Sums over the rows at hand. `Pass.statistics` has them for the whole global batch."""
        return {}

    def decision_of_blocks(self, decision: KeepDecision, num_positions: int) -> KeepDecision:
        """The decision as the blocks receive it in the loss pass; its values must not change."""
        return decision

    def loss(
        self, batch: Batch, decision: KeepDecision, pass_: Pass
    ) -> tuple[Tensor | float, dict[str, Tensor]]:
        """What is added to the cross-entropy, and sums over the rows at hand for the log.

        The loss must be linear in the rows, and divided by counts of the global batch. Its
        gradient, summed over passes and ranks, is then the same at any number of workers.
        """
        return 0.0, {}

    def after_step(self, pass_: Pass) -> None:
        """After the optimizer has moved the weights."""

    def before_validation(self, decide_rows: DecideRows) -> None:
        """Before the validation rows are scored."""

    def step_scalars(self, progress: float) -> dict[str, float]:
        """The settings of a step, for the log; `progress` of training from 0 to 1."""
        return {}

    def window_scalars(self, keep_frac: float) -> dict[str, float]:
        """What follows from the mean decision since the last line of the log."""
        return {}

    def validation_scalars(self) -> dict[str, float]:
        """What is logged with each validation."""
        return {}


def policy_training(config: RunConfig, network: SkipRecNetwork) -> PolicyTraining:
    """The moments of the kind that `config` names."""
    kind = class_of(config.policy.kind, "training") or PolicyTraining
    training: PolicyTraining = kind(config, network)
    return training
