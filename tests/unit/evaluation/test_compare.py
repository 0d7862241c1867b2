"""Two models on the same rows: each gets what it recommends, and an unknown target is a miss."""

import json
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from skiprec.data.shards import ShardSet
from skiprec.evaluation.compare import compare_models
from skiprec.inference import Recommender
from tests.testkit.exports import IDS, build_small_data, export_small_model
from tests.testkit.repository import ROOT

FOREIGN = ["new one", "new two"]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Rows of the items of the small models, and of two that these do not know."""
    return build_small_data(tmp_path_factory.mktemp("data"), [*IDS, *FOREIGN * 3], 200)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("models")
    export_small_model(folder / "a")
    export_small_model(folder / "b", kind="cost")
    return folder / "a", folder / "b"


def slow_gains(folder: Path, data: Path, exclude_seen: bool) -> tuple[list[float], list[bool]]:
    ids = pa.ipc.open_file(pa.memory_map(str(data / "items.arrow"))).read_all()["original_id"]
    shards = ShardSet.open(data, "test")
    gains, knows = [], []
    recommender = Recommender.load(folder)
    for row in shards.slice(0, shards.num_rows).items_RW.tolist():
        history = [ids[item - 1].as_py() for item in row[:-1] if item]
        target = ids[row[-1] - 1].as_py()
        (answer,) = recommender.recommend([history], k=20, exclude_seen=exclude_seen)
        gains.append(1 / (1 + answer.items.index(target)) if target in answer.items else 0.0)
        knows.append(target in IDS)
    return gains, knows


@pytest.mark.parametrize("exclude_seen", [False, True])
def test_the_numbers_are_those_of_one_answer_after_the_other(
    models: tuple[Path, Path], data: Path, exclude_seen: bool
) -> None:
    found = compare_models(models, data, "test", str, exclude_seen)
    gains = []
    for folder, one in zip(models, (found.first, found.second), strict=True):
        gain_R, knows_R = slow_gains(folder, data, exclude_seen)
        gains.append(np.array(gain_R))
        assert one.mrr_at_20 == pytest.approx(np.mean(gain_R))
        assert one.hr_at_20 == pytest.approx(np.mean(np.array(gain_R) > 0))
        assert one.unknown_targets == pytest.approx(1 - np.mean(knows_R))
        assert 0 < one.unknown_targets < 0.5
        assert 0 < one.unknown_items < 0.5
        assert 0 < one.mean_blocks <= 4
    assert found.difference == pytest.approx((gains[1] - gains[0]).mean())
    assert found.interval[0] < found.difference < found.interval[1]
    assert found.rows_known_to_both == sum(knows_R)
    assert found.known_to_both == pytest.approx((gains[1] - gains[0])[knows_R].mean())


def run(*arguments: Any) -> int:
    main = runpy.run_path(str(ROOT / "jobs/compare_models.py"), run_name="not_main")["main"]
    code: int = main([str(one) for one in arguments])
    return code


def test_the_exit_code_tells_a_scheduler(
    models: tuple[Path, Path],
    data: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    good, bad = models
    assert run("--models", good, good, "--data", data, "--output", tmp_path / "found.json") == 0
    written = json.loads((tmp_path / "found.json").read_text())
    assert (written["difference"], written["is_worse"], written["split"]) == (0.0, False, "test")
    assert "So few users" not in capsys.readouterr().out
    recommend_table = Recommender.recommend_table

    def nothing_good(self: Recommender, *given: Any, **options: Any) -> pa.Table:
        table = recommend_table(self, *given, **options)
        if self.spec.policy != "cost":
            return table
        place = table.schema.get_field_index("items")
        return table.set_column(place, "items", pa.array([["none such"]] * len(table)))

    monkeypatch.setattr(Recommender, "recommend_table", nothing_good)
    capsys.readouterr()
    assert run("--models", good, bad, "--data", data) == 3
    said = " ".join(capsys.readouterr().out.split())
    assert "is surely worse and must not take the place" in said
    assert run("--models", good, bad, "--data", data, "--margin", 0.9) == 0
    assert run("--models", bad, good, "--data", data) == 0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["--models", "nowhere", "{a}"], "nowhere holds no exported model"),
        (["--data", "nowhere"], "nowhere"),
        (["--margin", "-1"], "--margin is -1.0; expected 0 or more"),
        (["--margin", "nan"], "--margin is nan; expected 0 or more"),
    ],
)
def test_wrong_options(
    models: tuple[Path, Path],
    data: Path,
    changes: list[str],
    message: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    given = [change.format(a=models[0]) for change in changes]
    assert run("--models", *models, "--data", data, *given) == 2
    assert message in capsys.readouterr().err


def test_few_users_are_told(
    models: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    small = build_small_data(tmp_path, IDS, 40)
    assert run("--models", *models, "--data", small) == 0
    assert "So few users show large differences alone" in " ".join(capsys.readouterr().out.split())


def test_an_error_that_nobody_expected_is_not_the_verdict() -> None:
    """Without its packages the job ends with Python's own exit code, which is another one."""
    given = ["--models", "a", "b", "--data", "c"]
    command = [sys.executable, "-S", "-E", "jobs/compare_models.py", *given]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1
    assert "ModuleNotFoundError" in done.stderr
