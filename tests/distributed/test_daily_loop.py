"""The script of docs/daily.md on three days: build, train, export, compare, swap under load."""

import os
import shutil
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import numpy as np
import pyarrow as pa
import pytest

from tests.testkit.repository import ROOT
from tests.testkit.service import ask, served_by_the_job

pytestmark = pytest.mark.slow
USERS = 300
DAYS = 4  # that the log goes back
FIRST = datetime(2024, 5, 1, tzinfo=UTC)
CONFIG = """
name = "shop"
[data]
path = "data"
[model]
backbone = "nextitnet_plus"
num_blocks = 4
width = 32
final_norm = true
exits = [1, 2, 4]
[training]
epochs = 6
learning_rate = 4e-3
warmup_steps = 20
engine = "torch"
[cluster]
num_workers = 0
[evaluation]
num_workers = 0
"""


def items_of(day: int) -> list[str]:
    """Twenty items are on sale on a day: each day two are new, and two are gone."""
    return [f"item {number}" for number in range(2 * day, 2 * day + 20)]


def write_log(folder: Path, day: int) -> None:
    """A file for each of the last days; users walk round the items of a day in order."""
    folder.mkdir(exist_ok=True)
    for file in folder.iterdir():
        file.unlink()
    for one in range(day - DAYS + 1, day + 1):
        generator = np.random.default_rng(one)
        lines = ["user,item,when"]
        items = items_of(one)
        for user in range(USERS):
            place = int(generator.integers(len(items)))
            for number in range(12):
                when = FIRST + timedelta(days=one, hours=number, seconds=user)
                item = items[(place + number) % len(items)]
                lines.append(f"u{user},{item},{int(when.timestamp())}")
        (folder / f"{one}.csv").write_text("\n".join(lines))


def script_of_the_page() -> str:
    """`one_day.sh` as docs/daily.md has it, with this interpreter, this code and a small model."""
    page = (ROOT / "docs/daily.md").read_text()
    script = page[page.index("#!/bin/bash") :].split("```")[0]
    script = script.replace("--config jobs/configs/ml_1m/nextitnet_plus.toml", "--config shop.toml")
    return (
        script.replace("python ", f"{sys.executable} ")
        .replace(" datasets/", f" {ROOT}/datasets/")
        .replace(" jobs/", f" {ROOT}/jobs/")
    )


class Shop:
    """A folder with the log, the data, runs and models of some days, and the script."""

    def __init__(self, root: Path) -> None:
        self.root, self.current = root, root / "current"
        (root / "shop.toml").write_text(CONFIG)
        (root / "one_day.sh").write_text(script_of_the_page())

    def one_day(self, day: int) -> str:
        """Runs the script at the end of a day, of which the last three hours are compared."""
        write_log(self.root / "log", day)
        date = (FIRST + timedelta(days=day)).strftime("%Y-%m-%d")
        return self.run("bash", "one_day.sh", f"day-{day}", f"{date}T06:00", f"{date}T09:00")

    def compare(self, first: int, second: int, code: int) -> str:
        models = (f"models/day-{first}", f"models/day-{second}")
        job = (sys.executable, str(ROOT / "jobs/compare_models.py"), "--models", *models)
        return self.run(*job, "--data", f"runs/data/day-{max(first, second)}", code=code)

    def run(self, *command: str, code: int = 0) -> str:
        environment = os.environ | {"PYTHONPATH": str(ROOT)}
        done = subprocess.run(
            command, cwd=self.root, capture_output=True, text=True, timeout=300, env=environment
        )
        assert done.returncode == code, done.stdout[-3000:] + done.stderr[-3000:]
        return done.stdout


@contextmanager
def under_load(address: str) -> Iterator[Counter[int | str]]:
    """Requests of eight connections meanwhile; the counter has their statuses and models."""
    seen: Counter[int | str] = Counter()
    stop, lock = threading.Event(), threading.Lock()

    def send() -> None:
        body = {"histories": [["item 5", "item 6"], []], "k": 30}
        with httpx.Client(timeout=20) as client:
            while not stop.is_set():
                answer = client.post(f"{address}/v1/recommend", json=body)
                with lock:
                    seen[answer.status_code] += 1
                    seen[answer.json()["model"]] += 1

    threads = [threading.Thread(target=send) for _ in range(8)]
    for thread in threads:
        thread.start()
    try:
        yield seen
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def answer_to(address: str, history: list[str], k: int) -> dict[str, list[str]]:
    body = {"histories": [history], "k": k, "exclude_seen": False}
    result: dict[str, list[str]] = ask(address, body).json()["results"][0]
    return result


def wait_for_another_model(address: str, before: str) -> None:
    end = time.monotonic() + 30
    while ask(address, {"histories": [[]]}).json()["model"] == before:
        assert time.monotonic() < end
        time.sleep(0.05)


def test_the_script_goes_round(tmp_path: Path) -> None:
    shop = Shop(tmp_path)
    shop.one_day(10)
    assert shop.current.read_text().strip() == "models/day-10"
    with served_by_the_job("--pointer", str(shop.current)) as (_, address):
        for day in (11, 12):
            new, gone = items_of(day)[-2:], items_of(day - DAYS)[:2]
            before = ask(address, {"histories": [[]]}).json()["model"]
            # What the older model knows, so that the claims below are not empty.
            old = answer_to(address, [items_of(day - DAYS)[0]], k=40)
            assert old["unknown"] == []
            assert set(gone) < set(old["items"])
            assert not set(new) & set(old["items"])
            with under_load(address) as seen:
                said = shop.one_day(day)
                wait_for_another_model(address, before)
                time.sleep(0.3)
            assert f"items against those of day-{day - 1}: 24 kept, 2 new, 2 gone" in said
            assert "training row" not in said, "the new items were bought before LEARN_UNTIL"
            assert f"models/day-{day} may take the place of models/day-{day - 1}" in flat(said)
            assert seen[200] == sum(n for key, n in seen.items() if isinstance(key, int)) > 50
            assert len([key for key in seen if isinstance(key, str)]) == 2, "both models answered"

            # One new item follows the other, and the model has learned it.
            assert new[0] in answer_to(address, items_of(day)[-5:-2], k=3)["items"]
            assert new[1] in answer_to(address, items_of(day)[-4:-1], k=3)["items"]
            now = answer_to(address, [*gone, items_of(day)[3]], k=40)
            assert now["unknown"] == gone
            assert not set(now["items"]) & set(gone)
    shop.compare(12, 11, code=3)  # the older one does not know what is new

    said = shop.one_day(12)  # the model serves already
    assert flat(said) == "runs/data/day-12 is complete; nothing is left to do"
    # After a fault in the middle the same command goes on: only what is missing is made.
    shop.current.write_text("models/day-11")
    shutil.rmtree(tmp_path / "models/day-12")
    said = shop.one_day(12)
    assert "is complete; nothing is left to do" in said
    assert "is finished already" in said
    assert shop.current.read_text().strip() == "models/day-12"


def flat(text: str) -> str:
    return " ".join(text.split())


def test_the_ids_of_a_run_are_those_of_its_data(tmp_path: Path) -> None:
    Shop(tmp_path).one_day(10)
    tables = [
        pa.ipc.open_file(pa.memory_map(str(tmp_path / folder / "items.arrow"))).read_all()
        for folder in ("runs/data/day-10", "runs/shop/day-10")
    ]
    assert tables[0].equals(tables[1])
