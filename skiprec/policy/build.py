"""Building the policy of a configuration."""

from skiprec.policy.base import PolicyModule
from skiprec.policy.kinds import class_of
from skiprec.policy.section import PolicySection


def build_policy(
    options: PolicySection, num_items: int, backbone_width: int, num_blocks: int
) -> PolicyModule | None:
    """The policy with these options; its weights are not drawn yet. None without a policy."""
    if not options.decides:
        return None
    policy: PolicyModule = class_of(options.kind, "module")(
        options, num_items, backbone_width, num_blocks
    )
    return policy
