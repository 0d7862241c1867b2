"""What the `[policy]` section of every kind has in common. Pydantic alone is imported here."""

from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from skiprec.config.loss import LossConfig
from skiprec.config.model import ModelConfig
from skiprec.config.section import Section


class PolicySection(Section):
    """The base of a kind's options. The class variables are facts that other code asks for, so that
    no module outside of a kind's folder needs to name the kind."""

    decides: ClassVar[bool] = True
    """Whether there is a policy at all."""
    is_learned: ClassVar[bool] = False
    """Whether the policy has weights that training moves."""
    skips: ClassVar[bool] = True
    """Whether the policy ever skips a block."""
    trains_gathered: ClassVar[bool] = True
    """Whether training can do without the outputs of skipped blocks."""
    has_serving_knob: ClassVar[bool] = False
    """Whether `evaluation.keep_frac` can set the kept share of a trained policy anew."""

    if TYPE_CHECKING:
        kind: str  # each kind declares it, as the literal of its own name

    def check(self, model: ModelConfig, loss: LossConfig) -> None:
        """Raises ValueError for an option that does not fit the other sections."""

    @property
    def caution(self) -> str | None:
        """What a reader of this policy's report must know; None if there is nothing to say."""
        return None


class LearnedSection(PolicySection):
    """The options of every policy with a network of its own.

    The network is slim by default and reads the backbone's item vectors, because its own time
    counts against the speedup. In the paper it is as wide as the backbone and has its own
    embedding.
    """

    is_learned: ClassVar[bool] = True

    encoder: str = "conv"
    """Encoder of the history: `conv` (two light residual blocks), `gru` or `attention` (one
    block)."""
    width: int = Field(32, ge=1)
    """Number of channels of the policy."""
    own_embedding: bool = False
    """Whether the policy has an item table of its own. False: it reads the backbone's item vectors
    through a projection, and its gradient reaches the backbone's table."""
