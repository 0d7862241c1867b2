"""The published table of a sweep, also with trials that are not complete."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from cluster.sweeps import results
from cluster.sweeps.results import Ledger, _markdown
from cluster.sweeps.sweep import SweepConfig
from skiprec.terminal import MovingLine

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


def test_a_sweep_s_line_counts_the_samples_of_all_trials(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    result = {"samples": 5, "mrr@20": 0.25, "keep_frac": 0.5, "flops_speedup": 1.5}
    running, ended = (
        SimpleNamespace(
            last_result=result, is_finished=lambda is_over=is_over: is_over, config={}, status="x"
        )
        for is_over in (False, True)
    )
    line = MovingLine("", "", 0.0, True)
    monkeypatch.setattr(results, "current_line", lambda: line)
    job: Any = SimpleNamespace(sweep=SWEEP, trees={"gumbel": {}})
    ledger = Ledger(job, str(tmp_path), tmp_path)
    ledger.on_trial_result(1, [running, ended], "s-1", result)
    assert capsys.readouterr().out == (
        "[s-1] 5 of 10 samples  MRR@20 0.2500  kept 0.50  FLOPs 1.50x\n"
    )
    # A trial that was stopped early needs no more samples, so it counts as complete.
    assert (line.pace.done, line.pace.total) == (5 + 10, 2 * 10)
