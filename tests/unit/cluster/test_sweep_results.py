"""The published table of a sweep, also with trials that are not complete."""

from typing import Any

from cluster.sweeps.results import _markdown
from cluster.sweeps.sweep import SweepConfig

SWEEP = SweepConfig.model_validate(
    {
        "name": "s",
        "scheduler": "none",
        "num_trials": 2,
        "max_samples": 10,
        "report_samples": 5,
        "space": {"policy.width": [8]},
    }
)
TEST = {
    "mrr@20": 0.1,
    "mrr@20_interval": [0.05, 0.15],
    "speedup_flops": 2.0,
    "speedup_end_to_end": None,
}


def trial(name: str, **more: Any) -> dict[str, Any]:
    numbers = {"samples": 5, "mrr@20": 0.2, "keep_frac": 0.5, "flops_speedup": 1.5}
    common = {"trial": name, "kind": "gumbel", "settings": {"policy.width": 8}, "failed": False}
    return common | numbers | {"distinct_decisions": 3.0, "complete": False} | more


def test_a_front_of_trials_that_are_not_complete_is_published_as_such() -> None:
    trials = [trial("s-0"), trial("s-1", complete=True, test=TEST)]
    lines = _markdown(SWEEP, trials, trials, "a command").splitlines()
    assert "| s-0 | not complete |  |  |" in lines
    assert "| s-1 | 0.1000 [0.0500, 0.1500] | 2.00x |  |" in lines
    assert "- command: `a command`" in lines
