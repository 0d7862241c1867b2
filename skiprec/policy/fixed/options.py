"""Options of the control that keeps one fixed set of blocks."""

from typing import Literal

from skiprec.config.loss import LossConfig
from skiprec.config.model import ModelConfig
from skiprec.policy.section import PolicySection


class Options(PolicySection):
    """A control that keeps the same set of blocks for every row."""

    kind: Literal["fixed"] = "fixed"
    """Keep a fixed set of blocks."""
    keep_blocks: tuple[int, ...]
    """Indices of the kept blocks, counted from 0."""

    def check(self, model: ModelConfig, loss: LossConfig) -> None:
        """See `PolicySection`."""
        self.refuse_outside(model.num_blocks)

    def refuse_outside(self, num_blocks: int) -> None:
        """Raises ValueError if a kept index is not the index of a block."""
        outside = [block for block in self.keep_blocks if not 0 <= block < num_blocks]
        if outside:
            raise ValueError(
                f"policy.keep_blocks names {outside}, but the backbone has blocks 0 to "
                f"{num_blocks - 1}"
            )
