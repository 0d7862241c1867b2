"""The cluster commands of the documents: a head, its job server, a job at its address."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet
import pytest

from tests.testkit.jobs import kill_session
from tests.testkit.nodes import free_port
from tests.testkit.runs import REPOSITORY, SMOKE

pytestmark = pytest.mark.slow
BIN = Path(sys.executable).parent
START_S = 90
# Training in the process of the job or of the trial, without workers of Ray Train.
HERE = ("--set", "cluster.num_workers=0", "--set", "training.engine=torch")
SWEEP = """
name = "submitted"
scheduler = "none"
num_trials = 2
max_samples = 1280
report_samples = 640
[space]
"policy.target_keep_frac" = { low = 0.2, high = 0.8 }
"""


@dataclass(frozen=True)
class Head:
    """A running head: where its Ray and its job server listen, and the environment of its user."""

    ray_address: str
    dashboard: str
    environment: dict[str, str]

    def run(self, *command: str, timeout_s: float = 240) -> str:
        done = subprocess.run(
            command,
            cwd=REPOSITORY,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=timeout_s,
        )
        assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-5000:]
        return done.stdout + done.stderr


@pytest.fixture
def head(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Head]:
    folder = tmp_path_factory.mktemp("head")
    home = folder / "home"
    home.mkdir()
    environment = os.environ | {"HOME": str(home), "RAY_AUTH_MODE": "token", "NO_COLOR": "1"}
    environment["PATH"] = f"{BIN}:{environment['PATH']}"
    environment.pop("RAY_ADDRESS", None)
    if request.param == "home with a token":
        # What a local ray.init() leaves behind.
        (home / ".ray").mkdir()
        (home / ".ray/auth_token").write_text("0123456789abcdef" * 4)
    subprocess.run([BIN / "ray", "get-auth-token", "--generate"], env=environment, check=True)
    # Ports of its own, the agent's too: another Ray on this machine may hold the usual ones.
    port, dashboard_port, agent_port = free_port(), free_port(), free_port()
    log = (folder / "head.log").open("wb")
    process = subprocess.Popen(
        [
            *(BIN / "ray", "start", "--head", "--block", "--num-cpus=2", f"--port={port}"),
            *(f"--dashboard-port={dashboard_port}", "--object-store-memory=200000000"),
            f"--dashboard-agent-listen-port={agent_port}",
        ],
        env=environment,
        stdout=log,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    head = Head(f"127.0.0.1:{port}", f"http://127.0.0.1:{dashboard_port}", environment)
    try:
        wait_until_jobs_are_taken(head)
        yield head
    finally:
        kill_session(process)  # on SIGTERM it would wait half a minute for its processes
        log.close()


def wait_until_jobs_are_taken(head: Head) -> None:
    deadline = time.monotonic() + START_S
    while True:
        command = [BIN / "ray", "job", "submit", "--address", head.dashboard, "--", "echo", "up"]
        done = subprocess.run(command, env=head.environment, capture_output=True, text=True)
        if done.returncode == 0:
            return
        assert time.monotonic() < deadline, done.stdout + done.stderr
        time.sleep(2)


CONFIG = str(SMOKE.relative_to(REPOSITORY))


def submit(head: Head, script: str, *arguments: str) -> str:
    """What a job prints that is sent to the job server."""
    server = ("ray", "job", "submit", "--address", head.dashboard, "--working-dir", ".", "--")
    return head.run(*server, "python", script, *arguments)


@pytest.mark.parametrize("head", ["empty home"], indirect=True)
def test_a_job_whose_results_would_vanish_is_warned(head: Head) -> None:
    short = ("--set", "training.epochs=0.5", *HERE)
    printed = submit(head, "jobs/pretrain_backbone.py", "--config", CONFIG, *short)
    assert "succeeded" in printed
    assert "vanish with it" in printed


@pytest.mark.parametrize("head", ["home with a token"], indirect=True)
def test_jobs_go_through_the_job_server_or_to_its_address(head: Head, tmp_path: Path) -> None:
    """A run on the cluster's workers, its evaluation on them, a sweep, and batch scoring."""
    places = ("--set", f"root={tmp_path}", "--set", f"data.path={tmp_path}/data")
    places += ("--set", "training.epochs=0.99", "--set", "evaluation.timing_batches=[1]")
    printed = submit(head, "jobs/train_gumbel.py", "--config", CONFIG, *places)
    assert "succeeded" in printed
    assert (tmp_path / "smoke/result.json").exists(), printed

    connected = Head(
        head.ray_address, head.dashboard, head.environment | {"RAY_ADDRESS": head.ray_address}
    )
    connected.run(sys.executable, "jobs/evaluate_speedup.py", "--run", str(tmp_path / "smoke"))
    assert (tmp_path / "smoke/report.json").exists()

    sweep = tmp_path / "sweep.toml"
    sweep.write_text(SWEEP)
    here = (*HERE, "--set", "evaluation.num_workers=0")
    arguments = ("--config", CONFIG, "--sweep", str(sweep), *places, *here)
    printed = submit(head, "jobs/tune_policy.py", *arguments)
    assert (tmp_path / "submitted/best.toml").exists(), printed

    export, users, output = (str(tmp_path / name) for name in ("export", "users.csv", "recs"))
    connected.run(
        *(sys.executable, "jobs/export_model.py", "--run", str(tmp_path / "smoke")),
        *("--output", export),
    )
    items = pa.ipc.open_file(pa.memory_map(f"{export}/items.arrow")).read_all()["id"].to_pylist()
    lines = [f"user {number},{item}" for number, item in enumerate(items[:20])]
    Path(users).write_text("\n".join(["user,item", *lines]))
    arguments = ("--model", export, "--input", users, "--output", output, "--parts", "2")
    columns = ("--user-column", "user", "--item-column", "item")
    printed = submit(head, "jobs/recommend_users.py", *arguments, *columns)
    assert "the recommendations of 20 users (20 by model)" in printed
    assert pyarrow.parquet.read_table(output).num_rows == 20
