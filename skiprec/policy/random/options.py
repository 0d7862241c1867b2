"""Options of the control that keeps blocks at random."""

from typing import Literal

from pydantic import Field

from skiprec.policy.section import PolicySection


class Options(PolicySection):
    """A control that keeps each block of each row at random."""

    kind: Literal["random"] = "random"
    """Keep blocks at random, independently of each other."""
    keep_frac: float = Field(0.5, ge=0, le=1)
    """Probability that a block of a row is kept."""
