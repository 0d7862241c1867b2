"""Two days of the loop of docs/daily.md: build, train, export, compare, swap under load."""

import os
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import numpy as np
import pyarrow as pa
import pytest

from tests.testkit.repository import ROOT
from tests.testkit.service import ask, served_by_the_job

pytestmark = pytest.mark.slow
DAY_S = 86_400
USERS = 300
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


def write_log(path: Path, day: int) -> None:
    """Purchases of the day before and of this day; users walk round the items of a day in order."""
    generator = np.random.default_rng(day)
    lines = ["user,item,when"]
    for user in range(USERS):
        for one in (day - 1, day):
            items = items_of(one)
            place = int(generator.integers(len(items)))
            for number in range(12):
                when = one * DAY_S + number * 3600 + user
                lines.append(f"u{user},{items[(place + number) % len(items)]},{when}")
    path.write_text("\n".join(lines))


class Shop:
    """A folder with the data, runs and models of some days, and the commands of a day."""

    def __init__(self, root: Path) -> None:
        self.root = root
        (root / "shop.toml").write_text(CONFIG)

    def run(self, script: str, *arguments: object, code: int = 0) -> str:
        command = [sys.executable, str(ROOT / script), *map(str, arguments)]
        environment = os.environ | {"PYTHONPATH": str(ROOT)}
        done = subprocess.run(
            command, cwd=self.root, capture_output=True, text=True, timeout=200, env=environment
        )
        assert done.returncode == code, done.stdout[-3000:] + done.stderr[-3000:]
        return done.stdout

    def train(self, day: int) -> Path:
        """The model of a day, from its log and the run of the day before."""
        write_log(self.root / f"log-{day}.csv", day)
        columns = ("--user-column", "user", "--item-column", "item", "--time-column", "when")
        split = ("--time-unit", "s", "--split", "by_time", "--window", 8)
        self.run(
            "datasets/build_interactions.py",
            *("--input", f"log-{day}.csv", *columns, *split, "--output", f"data-{day}"),
        )
        given = ["--config", "shop.toml", "--set", f"data.path=data-{day}"]
        given += ["--set", "root=runs", "--set", f"name=day-{day}"]
        if day > 1:
            given += ["--set", f"init_from=day-{day - 1}", "--set", "init_items=neighbours"]
        said = self.run("jobs/pretrain_backbone.py", *given)
        if day > 1:
            assert f"items against those of day-{day - 1}: 20 kept, 2 new, 2 gone" in said
        export = f"models/day-{day}"
        self.run("jobs/export_model.py", "--run", f"runs/day-{day}", "--output", export)
        return self.root / export

    def publish(self, model: Path) -> None:
        draft = self.root / "current.draft"
        draft.write_text(str(model))
        draft.replace(self.root / "current")


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


def recommended(address: str, history: list[str]) -> list[str]:
    body = {"histories": [history], "k": 40, "exclude_seen": False}
    items: list[str] = ask(address, body).json()["results"][0]["items"]
    return items


def test_two_days_go_round(tmp_path: Path) -> None:
    shop = Shop(tmp_path)
    models = [shop.train(1)]
    shop.publish(models[0])
    with served_by_the_job("--pointer", str(tmp_path / "current")) as (_, address):
        for day in (2, 3):
            models.append(shop.train(day))
            rows = ("--data", f"data-{day}", "--output", f"compared-{day}.json")
            shop.run("jobs/compare_models.py", "--models", *models[-2:], *rows)
            shop.run("jobs/compare_models.py", "--models", *models[-2:][::-1], *rows[:2], code=1)
            before = ask(address, {"histories": [[]]}).json()["model"]
            with under_load(address) as seen:
                shop.publish(models[-1])
                end = time.monotonic() + 30
                while ask(address, {"histories": [[]]}).json()["model"] == before:
                    assert time.monotonic() < end
                    time.sleep(0.05)
                time.sleep(0.3)
            assert seen[200] == sum(n for key, n in seen.items() if isinstance(key, int)) > 50
            assert len([key for key in seen if isinstance(key, str)]) == 2, "both models answered"

            gone, new = set(items_of(day - 2)), items_of(day)[-2:]
            everything = recommended(address, [items_of(day)[3]])
            assert not set(everything) & (gone - set(items_of(day - 1))), "gone items"
            assert set(new) <= set(everything)
            # One new item follows the other, and the model has learned it.
            assert recommended(address, items_of(day)[-4:-1])[0] == new[1]


def test_the_ids_of_a_run_are_those_of_its_data(tmp_path: Path) -> None:
    shop = Shop(tmp_path)
    shop.train(1)
    tables = [
        pa.ipc.open_file(pa.memory_map(str(tmp_path / folder / "items.arrow"))).read_all()
        for folder in ("data-1", "runs/day-1")
    ]
    assert tables[0].equals(tables[1])
