"""Options of the control that keeps every block."""

from typing import ClassVar, Literal

from skiprec.policy.section import PolicySection


class Options(PolicySection):
    """A control that runs every block, as without a policy, but through the policy's interface."""

    skips: ClassVar[bool] = False

    kind: Literal["keep_all"] = "keep_all"
    """Keep every block of every row."""
