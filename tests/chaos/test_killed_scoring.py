"""Batch scoring gives each user exactly once, also when an actor or everything is killed."""

import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet
import pytest

from skiprec.inference import Recommender
from tests.testkit.exports import IDS, export_small_model
from tests.testkit.jobs import finish, kill_session, start_job

pytestmark = pytest.mark.slow
NUM_USERS, PARTS = 24_000, 32


class Scoring:
    """The job over a file of users, and what its output should hold."""

    def __init__(self, root: Path) -> None:
        export_small_model(root / "model", num_blocks=32, width=32)
        generator = np.random.default_rng(0)
        items = np.array([*IDS, "unknown"])[generator.integers(0, len(IDS) + 1, (NUM_USERS, 6))]
        users = pa.array([f"user {number}" for number in range(NUM_USERS)])
        self.table = pa.table({"user": users, "item": pa.array(items.tolist())})
        pyarrow.parquet.write_table(self.table, root / "users.parquet")
        self.root, self.output, self.log = root, root / "recs", root / "log.txt"

    def start(self) -> "subprocess.Popen[bytes]":
        options = {"--model": "model", "--input": "users.parquet", "--output": "recs"}
        arguments = [part for key, name in options.items() for part in (key, str(self.root / name))]
        arguments += ["--user-column", "user", "--item-column", "item", "--row-holds", "history"]
        return start_job("recommend_users.py", *arguments, "--parts", str(PARTS), log=self.log)

    def wait_for_parts(self, count: int, process: "subprocess.Popen[bytes]") -> None:
        end = time.monotonic() + 120
        while len(list(self.output.glob("part-*.parquet"))) < count:
            assert process.poll() is None, self.log.read_text()[-3000:]
            assert time.monotonic() < end
            time.sleep(0.01)

    def assert_whole(self) -> None:
        """Each user once, with the answer of the library."""
        found = pyarrow.parquet.read_table(self.output, columns=["user", "items"])
        assert found.num_rows == NUM_USERS
        answers = Recommender.load(self.root / "model").recommend_table(self.table["item"])
        expected = dict(
            zip(self.table["user"].to_pylist(), answers["items"].to_pylist(), strict=True)
        )
        rows = found.to_pylist()
        assert {row["user"]: row["items"] for row in rows} == expected
        assert not (self.output / "_scratch").exists()


def kill_actor(process: "subprocess.Popen[bytes]") -> None:
    """Kills one actor of the job, as a machine that runs out of memory does."""
    actors = [
        child
        for child in psutil.Process(process.pid).children(recursive=True)
        if "Scorer" in " ".join(child.cmdline())
    ]
    assert actors
    os.kill(actors[0].pid, signal.SIGKILL)


@pytest.mark.parametrize("fault", ["actor", "everything"])
def test_each_user_is_there_once(tmp_path: Path, fault: str) -> None:
    scoring = Scoring(tmp_path)
    process = scoring.start()
    scoring.wait_for_parts(3, process)
    strike: Callable[[subprocess.Popen[bytes]], None]
    strike = kill_actor if fault == "actor" else kill_session
    strike(process)
    done = len(list(scoring.output.glob("part-*.parquet")))
    assert done < PARTS, "the fault came in the middle"
    if fault == "everything":
        process = scoring.start()
    finish(process, scoring.log, timeout_s=240)
    scoring.assert_whole()
