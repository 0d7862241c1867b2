"""What an engine is asked to compute."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn


@dataclass(frozen=True)
class Pass:
    """What one forward pass is for, and what it must know of the global batch.

    loss: the loss of some rows. statistics: only their keep decisions, summed. validate: the ranks
    of the targets at the last position, with the decisions of serving. decide: those decisions.

    Args:
        progress: of training, from 0 to 1; None where decisions are those of serving.
        keep_frac: mean sampled decision of the global batch.
        served_frac: mean decision of the global batch as serving takes it.
        prob_L: mean P(keep) of each block over the global batch.
        is_last: whether this is the last pass of its step on this rank.
    """

    kind: Literal["loss", "statistics", "validate", "decide"]
    step: int = 0
    progress: float | None = None
    num_targets: Tensor | None = None
    num_rows: int = 1
    keep_frac: Tensor | None = None
    served_frac: Tensor | None = None
    prob_L: Tensor | None = None
    is_last: bool = True

    @property
    def turns_dropout_off(self) -> bool:
        """Whether the network is asked as it will serve."""
        return self.kind in ("validate", "decide")


@contextmanager
def without_dropout(network: nn.Module) -> Iterator[None]:
    """Inside, the network computes as in serving."""
    was_training = network.training
    network.eval()
    try:
        yield
    finally:
        network.train(was_training)
