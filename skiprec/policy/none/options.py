"""The section of a run without a policy."""

from typing import ClassVar, Literal

from skiprec.policy.section import PolicySection


class Options(PolicySection):
    """No policy. Every block runs for every row, as in the run of a backbone."""

    decides: ClassVar[bool] = False
    skips: ClassVar[bool] = False

    kind: Literal["none"] = "none"
    """Train and serve without a policy."""
