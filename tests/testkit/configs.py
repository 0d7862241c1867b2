"""A small configuration with overrides, and the overrides that make it one of a policy."""

from skiprec.config.files import apply_overrides, parse_config
from skiprec.config.run import RunConfig

PLAIN = {"name": "run", "data": {"path": "data"}}
GUMBEL = ("policy.kind=gumbel", "training.execution=masked")
REINFORCE = ("policy.kind=reinforce", "training.execution=gathered")
COST = ("policy.kind=cost", "policy.nest_sizes=[4, 8]", "training.execution=gathered")
BUDGET = ("policy.target_keep_frac=0.5", "policy.budget_weight=1")


def config(*overrides: str, source: str = "test") -> RunConfig:
    return parse_config(apply_overrides(PLAIN, overrides), source)
