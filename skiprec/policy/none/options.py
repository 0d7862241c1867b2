"""The section of a run without a policy."""

from typing import ClassVar, Literal

from skiprec.policy.section import PolicySection


class Options(PolicySection):
    """No policy: every block runs for every row, as in the backbone's own run."""

    decides: ClassVar[bool] = False
    skips: ClassVar[bool] = False

    kind: Literal["none"] = "none"
    """No policy."""
