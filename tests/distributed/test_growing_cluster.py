"""The jobs on a cluster like the one of ray_cluster.yaml: a head that computes nothing, machines
that come when they are asked for."""

from pathlib import Path

import pytest

from tests.testkit.jobs import finish, start_job
from tests.testkit.nodes import growing_cluster
from tests.testkit.runs import SMOKE, build_smoke_data

pytestmark = pytest.mark.slow
SWEEP = """
name = "s"
scheduler = "none"
num_trials = 2
concurrent_trials = 2
max_samples = 1280
report_samples = 640
[space]
"policy.target_keep_frac" = { low = 0.2, high = 0.8 }
"""


def run(script: str, *arguments: str, log: Path) -> str:
    return finish(start_job(script, *arguments, log=log), log, timeout_s=240)


@pytest.mark.parametrize("first", ["a run", "a sweep"])
def test_a_cluster_that_grows_from_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, first: str
) -> None:
    data, log = build_smoke_data(tmp_path), tmp_path / "log.txt"
    places = ("--set", f"root={tmp_path}", "--set", f"data.path={data}")
    with growing_cluster(tmp_path) as address:
        monkeypatch.setenv("RAY_ADDRESS", address)
        if first == "a run":
            two = ("--set", "cluster.num_workers=2")
            said = run("train_gumbel.py", "--config", str(SMOKE), *places, *two, log=log)
            run("evaluate_speedup.py", "--run", str(tmp_path / "smoke"), log=log)
            assert (tmp_path / "smoke/report.json").exists()
        else:
            (tmp_path / "sweep.toml").write_text(SWEEP)
            sweep = ("--sweep", str(tmp_path / "sweep.toml"))
            said = run("tune_policy.py", "--config", str(SMOKE), *sweep, *places, log=log)
            assert "2 trials, 2 at a time" in said
            assert (tmp_path / "s/best.toml").exists()
    assert "for machines: " in said
    assert "2 CPU in all; Ray has 1 machine(s) with 0 CPU, room for 0" in said


def test_a_machine_that_does_not_come_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, log = build_smoke_data(tmp_path), tmp_path / "log.txt"
    places = ("--set", f"root={tmp_path}", "--set", f"data.path={data}")
    more = ("--set", "cluster.num_workers=3", "--set", "cluster.room_timeout_s=5")
    with growing_cluster(tmp_path) as address:
        monkeypatch.setenv("RAY_ADDRESS", address)
        job = start_job("train_gumbel.py", "--config", str(SMOKE), *places, *more, log=log)
        assert job.wait(120) == 2
    assert "3 CPU in all; Ray has" in log.read_text().splitlines()[-1]
