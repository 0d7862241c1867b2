"""What a kind of policy does in the training of a network: its loss, its price, its log."""

from collections.abc import Callable

from torch import Tensor

from skiprec.config.run import RunConfig
from skiprec.network import SkipRecNetwork
from skiprec.policy.kinds import class_of
from skiprec.types import Batch, KeepDecision, Pass

# Returns the decisions of serving for the validation rows of all ranks: fields of `KeepDecision` by
# name, each with one entry for each row. It is a collective, so every rank must call it.
DecideRows = Callable[[], dict[str, Tensor]]


class PolicyTraining:
    """The moments of training at which a policy may act. This base acts at none of them.

    A control uses this base. A learned kind overrides some methods in its `training.py`. Every rank
    calls each method at the same place of the training loop. A step calls, in this order:
    `statistics` for each micro-batch, if `needs_statistics`; `loss` and `decision_of_blocks` for
    each micro-batch; `after_step`; `step_scalars`.

    `loss` must not change any state. A number that training changes without a gradient, such as a
    price, changes in `after_step` or `before_validation`. It is a buffer of the policy, so that
    checkpoints hold it (see `PricedPolicy`). Names of scalars have the form "group/name".
    """

    def __init__(self, config: RunConfig, network: SkipRecNetwork) -> None:
        self.options = config.policy
        self.network = network
        self.policy = network.policy
        self.execution = config.training.execution

    @property
    def needs_statistics(self) -> bool:
        """Whether each step starts with a pass that sums `statistics` over the global batch.

        `statistics` is called only if this is True.
        """
        return False

    def statistics(self, decision: KeepDecision) -> dict[str, Tensor]:
        """Sums over the rows of a pass. `Pass.statistics` holds those of the global batch."""
        return {}

    def decision_of_blocks(self, decision: KeepDecision, num_positions: int) -> KeepDecision:
        """The decision that the blocks receive in the loss pass. Only its gradient may differ.

        In masked execution its `keep_BL` may be a `keep_TBL` (see `BlockStack.masked`).
        """
        return decision

    def loss(
        self, batch: Batch, decision: KeepDecision, pass_: Pass
    ) -> tuple[Tensor | float, dict[str, Tensor]]:
        """The terms to add to the cross-entropy, and sums over the rows of the pass for the log.

        The loss must be linear in the rows and divided by counts of the global batch. Then its
        gradient, summed over passes and ranks, is the same at any number of workers.

        The sums have no gradient. The log shows each as `train/<name>`, divided by the number of
        rows. The names in `skiprec.training.objective.OWN_SUMS` are taken.
        """
        return 0.0, {}

    def after_step(self, pass_: Pass) -> None:
        """Called after the optimizer has updated the weights."""

    def before_validation(self, decide_rows: DecideRows) -> None:
        """Called before the validation rows are scored."""

    def step_scalars(self, progress: float) -> dict[str, float]:
        """The settings of a step, for the log. `progress` of the training is from 0 to 1."""
        return {}

    def window_scalars(self, keep_frac: float) -> dict[str, float]:
        """Numbers for the log that follow from the share kept since the last line of the log."""
        return {}

    def validation_scalars(self) -> dict[str, float]:
        """Numbers for the log at each validation."""
        return {}


def policy_training(config: RunConfig, network: SkipRecNetwork) -> PolicyTraining:
    """The `PolicyTraining` of the kind of `config.policy`."""
    kind = class_of(config.policy.kind, "training") or PolicyTraining
    training: PolicyTraining = kind(config, network)
    return training
