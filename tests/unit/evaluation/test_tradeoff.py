"""Accuracy against time: the numbers of models against slow references, and rivals by hand."""

import itertools
import json
import runpy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter

from skiprec.data.shards import ShardSet
from skiprec.evaluation.tradeoff import measure
from skiprec.evaluation.tradeoff.measure import (
    ModelPoint,
    Timing,
    TradeoffMeasured,
    measure_tradeoff,
    model_names,
    points_of,
)
from skiprec.evaluation.tradeoff.picture import draw_tradeoff
from skiprec.evaluation.tradeoff.report import (
    TradeoffReport,
    best_as_fast,
    best_coin,
    front_of,
    tradeoff_markdown,
    tradeoff_report,
)
from skiprec.inference import Recommender
from tests.testkit.exports import IDS, build_small_data, export_small_model
from tests.testkit.repository import ROOT

QUICK = Timing(histories=4, rounds=3)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_small_data(tmp_path_factory.mktemp("data"), IDS, 150)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("models")
    export_small_model(folder / "plain", kind="none")
    export_small_model(folder / "by-user" / "export", kind="cost")
    return [folder / "plain", folder / "by-user" / "export"]


def test_each_point_has_the_answers_of_its_share(models: list[Path], data: Path) -> None:
    found = measure_tradeoff(models, data, "test", None, QUICK, str)
    ids = pa.ipc.open_file(pa.memory_map(str(data / "items.arrow"))).read_all()["original_id"]
    shards = ShardSet.open(data, "test")
    rows = shards.slice(0, shards.num_rows).items_RW.tolist()
    loaded = {"plain": Recommender.load(models[0]), "by-user": Recommender.load(models[1])}
    assert found.points[0].model == "plain"
    assert {point.model for point in found.points[1:]} == {"by-user"}
    assert len(found.points) > 3
    for column, point in enumerate(found.points):
        gains, blocks = [], []
        for row in rows:
            history = [ids[item - 1].as_py() for item in row[:-1] if item]
            (answer,) = loaded[point.model].recommend(
                [history], k=20, exclude_seen=False, keep=point.keep, explain=True
            )
            target = ids[row[-1] - 1].as_py()
            gains.append(1 / (1 + answer.items.index(target)) if target in answer.items else 0.0)
            blocks.append(len(answer.kept_blocks))
        np.testing.assert_allclose(found.gain_RP[:, column], gains)
        assert found.blocks_P[column] == pytest.approx(np.mean(blocks))
    assert found.ms_NP.shape == (3, len(found.points))
    assert (found.ms_NP > 0).all()


def test_times_are_taken_at_each_point_in_turn(
    models: list[Path], data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each round asks every point for the same histories, and begins with another one."""
    asked: list[tuple[float | None, int]] = []

    def recommend(self: Recommender, histories: list[list[str]], **options: Any) -> list[Any]:
        asked.append((options["keep"], len(histories)))
        return []

    keeps = points_of(Recommender.load(models[1]))
    loaded = [Recommender.load(folder) for folder in models]
    monkeypatch.setattr(Recommender, "load", lambda folder, **_: loaded[models.index(folder)])
    monkeypatch.setattr(Recommender, "recommend", recommend)
    timing = Timing(histories=4, batch=2, rounds=3)
    measure_tradeoff([models[1]], data, "test", 40, timing, str)
    assert {size for _, size in asked} == {2}
    points = [keep for keep, _ in asked[::2]]
    rounds = [points[start : start + len(keeps)] for start in range(0, len(points), len(keeps))]
    assert len(rounds) == 3 + 2, "two rounds warm up"
    assert all(sorted(one) == keeps for one in rounds)
    assert len({one[0] for one in rounds}) > 1


def test_rows_are_a_sample_where_asked(models: list[Path], data: Path) -> None:
    found = measure_tradeoff(models[:1], data, "test", 40, QUICK, str)
    assert found.gain_RP.shape == (40, 1)


def test_a_model_s_knob_ends_with_all_blocks(models: list[Path]) -> None:
    assert points_of(Recommender.load(models[0])) == [None]
    keeps = points_of(Recommender.load(models[1]))
    assert keeps == sorted(set(keeps))
    assert keeps[-1] == 1.0
    short = Recommender.load(models[1])
    curve = tuple(point for point in short.spec.curve if point.keep < 1)
    short.spec = replace(short.spec, curve=curve)
    assert points_of(short) == keeps, "all blocks are a point, whether the curve has them or not"


def test_models_need_names_of_their_own() -> None:
    assert model_names([Path("runs/a/export"), Path("models/b")]) == ["a", "b"]
    with pytest.raises(ValueError, match="different names, got 'a' twice"):
        model_names([Path("runs/a/export"), Path("old/a/export")])


POINTS = st.lists(
    st.tuples(st.floats(0.01, 10), st.floats(0, 1), st.integers(0, 2)), min_size=2, max_size=7
)


@given(POINTS)
@settings(max_examples=200, deadline=None)
def test_rivals_are_those_of_trying_all(drawn: list[tuple[float, float, int]]) -> None:
    ms, mean, model = (np.array(column) for column in zip(*drawn, strict=True))
    for place in front_of(ms, mean):
        assert not any(
            (ms[p] <= ms[place] and mean[p] > mean[place])
            or (ms[p] < ms[place] and mean[p] >= mean[place])
            for p in range(len(ms))
        )
    others = np.flatnonzero(model != model[0])
    fast = [p for p in others if ms[p] <= ms[0]]
    as_fast, coin = best_as_fast(ms, mean, others, ms[0]), best_coin(ms, mean, others, ms[0])
    if not fast:
        assert as_fast is None
        assert coin is None
        return
    best = max(mean[p] for p in fast)
    assert mean @ as_fast == pytest.approx(best)
    for a, b in itertools.product(fast, (p for p in others if ms[p] > ms[0])):
        share = (ms[0] - ms[a]) / (ms[b] - ms[a])
        best = max(best, (1 - share) * mean[a] + share * mean[b])
    assert mean @ coin == pytest.approx(best)
    assert ms @ coin <= ms[0] * (1 + 1e-9)
    assert coin.sum() == pytest.approx(1)


def by_hand() -> TradeoffMeasured:
    """Half of the rows need the slow net. `user` knows which, and takes the mean of both times."""
    needs_R = np.arange(400) % 2 == 0
    shallow, deep = np.where(needs_R, 0.25, 1.0), np.where(needs_R, 1.0, 0.5)
    user = np.where(needs_R, deep, shallow)
    return TradeoffMeasured(
        [ModelPoint("deep", None), ModelPoint("user", 0.5), ModelPoint("shallow", None)],
        np.stack([deep, user, shallow], axis=1),
        np.array([16.0, 9.0, 2.0]),
        np.tile([3.0, 2.0, 1.0], (5, 1)),
        (np.arange(400) // 4).astype(np.int32),
        "native",
    )


def test_depth_by_user_is_compared_with_a_coin_of_its_time() -> None:
    report = tradeoff_report(by_hand(), {"rows": "400", "batch": 1})
    TypeAdapter(TradeoffReport).validate_json(json.dumps(report, allow_nan=False))
    shallow, user, deep = report["lines"]
    assert [line["ms"] for line in report["lines"]] == [1.0, 2.0, 3.0]
    assert [line["is_on_front"] for line in report["lines"]] == [True, True, False]
    assert shallow["minus_fastest"] is None
    assert user["minus_fastest"]["against"] == "shallow"
    assert user["minus_fastest"]["difference"] == pytest.approx(1.0 - 0.625)
    assert user["minus_coin"]["against"] == "deep and shallow"
    assert user["minus_coin"]["difference"] == pytest.approx(1.0 - (0.625 + 0.75) / 2)
    low, high = user["minus_coin"]["difference_interval"]
    assert low == pytest.approx(0.3125)
    assert high == pytest.approx(0.3125), "each user has as many rows of both kinds"
    assert deep["minus_fastest"]["against"] == "user@0.50"
    assert deep["minus_coin"]["difference"] == pytest.approx(-0.25)
    text = tradeoff_markdown(report)
    assert "| user * | 0.500 | 9.0 |" in text
    assert "+0.3125 [" in text
    assert len(draw_tradeoff(report).axes) == 1


def test_a_model_of_the_same_time_is_as_fast() -> None:
    measured = replace(by_hand(), ms_NP=np.ones((5, 3)))
    for line in tradeoff_report(measured, {})["lines"]:
        assert line["minus_fastest"]["against"] == (
            "deep" if line["model"] == "user" else "user@0.50"
        )


@pytest.mark.parametrize(("slowest", "scale"), [(3.0, "linear"), (30.0, "log")])
def test_times_that_differ_much_stand_on_a_logarithmic_axis(slowest: float, scale: str) -> None:
    measured = replace(by_hand(), ms_NP=np.tile([slowest, 2.0, 1.0], (5, 1)))
    (axes,) = draw_tradeoff(tradeoff_report(measured, {"rows": "400", "batch": 1})).axes
    assert axes.get_xscale() == scale


def run(*arguments: Any) -> int:
    main = runpy.run_path(str(ROOT / "jobs/measure_tradeoff.py"), run_name="not_main")["main"]
    code: int = main([str(one) for one in arguments])
    return code


def test_the_job_writes_its_report(
    models: list[Path], data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ("--models", *models, "--data", data, "--output", tmp_path / "out")
    assert run(*given, "--rounds", 2, "--max-rows", 50) == 0
    files = {path.name for path in (tmp_path / "out").iterdir()}
    assert files == {"tradeoff.json", "tradeoff.md", "tradeoff.png"}
    report = json.loads((tmp_path / "out/tradeoff.json").read_text())
    assert report["conditions"]["rows"] == "50"
    assert "by-user" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"--models": ["nowhere"]}, "nowhere holds no exported model"),
        ({"--data": ["nowhere"]}, "nowhere"),
        ({"--max-rows": ["0"]}, "has no rows"),
    ],
)
def test_what_is_wrong_is_said(
    models: list[Path],
    data: Path,
    changes: dict[str, list[str]],
    message: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    options = {"--models": [str(models[0])], "--data": [str(data)]} | changes
    assert run(*(part for name, values in options.items() for part in (name, *values))) == 2
    assert message in capsys.readouterr().err


class Asked:
    """Stands for a model, and notes what it is asked."""

    def __init__(self) -> None:
        self.calls: list[list[str]] = []

    def recommend(self, call: list[list[str]], **_: object) -> None:
        self.calls.append([history[0] for history in call])


def test_every_round_asks_all_models_for_the_same_histories_and_the_next_for_others() -> None:
    histories = [[str(number)] for number in range(7)]
    models = [Asked(), Asked()]
    points: list[Any] = [(ModelPoint(name, None), m) for name, m in zip("ab", models, strict=True)]
    times_NP = measure._times(points, histories, Timing(batch=2, rounds=3), lambda _: None)
    assert times_NP.shape == (3, 2)
    assert models[0].calls == models[1].calls
    rounds = [["0", "3"], ["6"], ["1", "4"], ["2", "5"]]
    assert models[0].calls[-4:] == rounds
    few = [Asked()]
    one: list[Any] = [(ModelPoint("a", None), few[0])]
    measure._times(one, histories[:2], Timing(batch=2, rounds=3), lambda _: None)
    assert few[0].calls == [["0", "1"]] * 5, "with few histories every round has all"
