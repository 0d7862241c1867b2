"""Jobs on a cluster like that of ray_cluster.yaml.

Its head runs no workers, and its autoscaler adds machines on demand.
"""

from pathlib import Path

import pytest

from tests.testkit.jobs import finish, start_job
from tests.testkit.nodes import free_port, growing_cluster
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


def test_a_cluster_that_grows_from_nothing(tmp_path: Path) -> None:
    data, log = build_smoke_data(tmp_path), tmp_path / "log.txt"
    (tmp_path / "sweep.toml").write_text(SWEEP)
    sweep = ("--sweep", str(tmp_path / "sweep.toml"))
    smoke = ("--config", str(SMOKE), "--set", f"root={tmp_path}", "--set", f"data.path={data}")
    smoke += ("--set", "training.epochs=0.99", "--set", "evaluation.timing_batches=[1]")
    here = ("--set", "cluster.num_workers=0", "--set", "training.engine=torch")
    here += ("--set", "evaluation.num_workers=0")
    two = ("--set", "cluster.num_workers=2")
    three = ("--set", "cluster.num_workers=3", "--set", "cluster.room_timeout_s=5")
    with growing_cluster(tmp_path):
        said = run("tune_policy.py", *smoke, *here, *sweep, log=log)
        assert "for machines: " in said
        assert "2 CPU in all; Ray has 1 machine(s) with 0 CPU, room for 0" in said
        assert "2 trials, 2 at a time" in said
        assert (tmp_path / "s/best.toml").exists()

        run("train_gumbel.py", *smoke, *two, log=log)
        run("evaluate_speedup.py", "--run", str(tmp_path / "smoke"), log=log)
        assert (tmp_path / "smoke/report.json").exists()

        job = start_job("train_gumbel.py", *smoke, "--set", "name=wide", *three, log=log)
        assert job.wait(120) == 2
        assert "3 CPU in all; Ray has 2 machine(s)" in log.read_text().splitlines()[-1]


def test_an_address_where_nobody_listens_is_refused_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, log = build_smoke_data(tmp_path), tmp_path / "log.txt"
    places = ("--set", f"root={tmp_path}", "--set", f"data.path={data}")
    monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{free_port()}")
    job = start_job("train_gumbel.py", "--config", str(SMOKE), *places, log=log)
    assert job.wait(60) == 2
    assert "no Ray answers at RAY_ADDRESS=127.0.0.1:" in log.read_text().splitlines()[-1]
