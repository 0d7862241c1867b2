"""What of a policy changes while it trains: pure functions of progress, from 0 to 1."""

import math

from skiprec.policy_config import GumbelPolicyConfig, PolicyConfig, ReinforcePolicyConfig


def temperature(policy: GumbelPolicyConfig, progress: float) -> float:
    """Geometric from `temperature_start` to `temperature_end`."""
    start, end = policy.temperature_start, policy.temperature_end
    return start * math.exp(progress * math.log(end / start))


def budget_ramp(policy: GumbelPolicyConfig, progress: float) -> float:
    """The part of the budget's weight that counts yet: grows evenly over `budget_warmup_frac`."""
    if policy.budget_warmup_frac is None:
        return 1.0
    return min(1.0, progress / policy.budget_warmup_frac)


def num_free_blocks(policy: ReinforcePolicyConfig, num_blocks: int, progress: float) -> int:
    """How many blocks, from the last one on, may be skipped yet (BlockDrop's curriculum)."""
    if policy.free_blocks_frac is None:
        return num_blocks
    return max(1, min(num_blocks, math.ceil(num_blocks * progress / policy.free_blocks_frac)))


def logged_settings(policy: PolicyConfig, num_blocks: int, progress: float) -> dict[str, float]:
    """What the log says of the schedules."""
    if isinstance(policy, GumbelPolicyConfig):
        return {"policy/temperature": temperature(policy, progress)}
    if isinstance(policy, ReinforcePolicyConfig) and policy.free_blocks_frac is not None:
        return {"policy/free_blocks": float(num_free_blocks(policy, num_blocks, progress))}
    return {}
