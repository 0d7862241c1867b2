"""An exported model answers by original ids, the same everywhere, and says what is wrong."""

import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

from skiprec.evaluation.measure.timing import shallow_network
from skiprec.inference import Recommender
from skiprec.inference.executor import recommend
from skiprec.inference.native.library import bf16_levels
from skiprec.inference.saved_model import read_saved_model
from tests.testkit.exports import IDS, WINDOW, export_small_model
from tests.testkit.native import native_library
from tests.testkit.networks import (
    LEARNED,
    NUM_ITEMS,
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("export") / "model"
    export_small_model(folder)
    return folder


@pytest.fixture(params=["native", "numpy"])
def recommender(request: pytest.FixtureRequest, folder: Path) -> Recommender:
    if request.param == "native":
        native_library()
    return Recommender.load(folder, executor=request.param)


@pytest.mark.parametrize("executor", ["native", "numpy"])
@pytest.mark.parametrize("backbone", ["nextitnet", "sasrec_plus", "sasrec_plus_authors"])
@pytest.mark.parametrize("kind", [*LEARNED, "none", "fixed", "keep_all"])
@pytest.mark.parametrize(
    ("exits", "readouts"), [(None, None), ((1, 2, 4), None), ((1, 2, 4), True)]
)
def test_an_exported_model_answers_like_its_network(
    tmp_path: Path,
    kind: str,
    backbone: str,
    executor: Any,
    exits: tuple[int, ...] | None,
    readouts: bool | None,
) -> None:
    if executor == "native":
        native_library()
    state: dict[str, Any] = {"reads_after": 1} if exits and kind in LEARNED else {}
    network = export_small_model(
        tmp_path / "model", kind, backbone, exits=exits, readouts=readouts, **state
    )
    loaded = Recommender.load(tmp_path / "model", executor=executor)
    rows = [[1, 2, 3], [7], [9, 9, 30, 2, 5, 6]]
    answers = loaded.recommend(
        [[IDS[n - 1] for n in row] for row in rows], k=5, exclude_seen=False, explain=True
    )
    for row, answer in zip(rows, answers, strict=True):
        items_BT = torch.tensor([[0] * (WINDOW - len(row)) + row])
        items_BK, scores_BK = recommend(network, items_BT, 5, exclude_seen=False)
        assert answer.items == [IDS[item - 1] for item in items_BK[0].tolist()]
        assert answer.scores == pytest.approx(scores_BK[0].tolist(), rel=1e-3, abs=1e-4)
        assert (answer.source, answer.read, answer.unknown) == ("model", len(row), [])
    assert any(answer.kept_blocks for answer in answers)


@pytest.mark.parametrize("features", [("length",), ("state",), ("length", "state")])
def test_a_policy_on_some_of_the_features_is_exported(
    tmp_path: Path, features: tuple[str, ...]
) -> None:
    """docs/depth.md compares a policy with one that reads the length alone."""
    network = export_small_model(
        tmp_path / "model", "cost", exits=(1, 2, 4), reads_after=1, features=features
    )
    loaded = Recommender.load(tmp_path / "model", executor="numpy")
    for row in ([1, 2, 3], [7], [9, 9, 30, 2, 5, 6]):
        (answer,) = loaded.recommend([[IDS[n - 1] for n in row]], k=5, exclude_seen=False)
        items_BT = torch.tensor([[0] * (WINDOW - len(row)) + row])
        _, scores_BK = recommend(network, items_BT, 5, exclude_seen=False)
        assert answer.scores == pytest.approx(scores_BK[0].tolist(), rel=1e-3, abs=1e-4)


def test_bf16_is_asked_for_by_name(folder: Path) -> None:
    native_library()
    if not bf16_levels():
        with pytest.raises(ValueError, match="does not multiply in bf16"):
            Recommender.load(folder, executor="native_bf16")
        return
    rounded = Recommender.load(folder, executor="native_bf16")
    exact = Recommender.load(folder)
    histories = [["item 1", "2"], ["item 7"]]
    for a, b in zip(rounded.recommend(histories), exact.recommend(histories), strict=True):
        assert a.scores != b.scores
        assert a.scores == pytest.approx(b.scores, abs=0.02 * max(map(abs, b.scores)))


def test_unknown_items_empty_and_long_histories(recommender: Recommender) -> None:
    histories = [["new", "item 1", "2"], [], ["new"], ["item 1"] * 40, ["item 1", 2]]
    some, empty, new, long, mixed = recommender.recommend(histories, k=3, explain=True)
    assert (some.unknown, some.read, some.source) == (["new"], 2, "model")
    assert some.items == mixed.items  # a whole number is the id that it prints
    assert "item 1" not in some.items
    assert long.read == WINDOW
    for one in (empty, new):
        assert (one.source, one.items, one.read) == ("popularity", ["item 1", "2", "item 3"], 0)
        assert one.kept_blocks == []
        assert one.scores == sorted(one.scores, reverse=True)
    assert new.unknown == ["new"]
    assert recommender.recommend([]) == []


def test_allowed_and_denied_items(recommender: Recommender) -> None:
    histories = [["item 1", "2"], []]
    only = recommender.recommend(histories, k=5, allow=["item 3", "4", "none such"])
    assert [sorted(one.items) for one in only] == [["4", "item 3"]] * 2
    free = recommender.recommend(histories, k=5)
    without = recommender.recommend(histories, k=5, deny=[free[0].items[0], "item 1"])
    assert free[0].items[0] not in without[0].items
    assert without[0].items[:4] == free[0].items[1:]
    assert without[1].items[0] == "2"
    seen = recommender.recommend([["item 1"]], k=NUM_ITEMS, exclude_seen=False)
    assert sorted(seen[0].items) == sorted(IDS)


def test_keep_is_the_share_of_blocks(recommender: Recommender) -> None:
    generator = np.random.default_rng(1)
    histories = [generator.choice(IDS, 6).tolist() for _ in range(200)]
    shares = []
    for keep in (0.0, 0.25, 0.5, 0.75, 1.0):
        answers = recommender.recommend(histories, keep=keep, explain=True)
        shares.append(np.mean([len(one.kept_blocks or ()) for one in answers]) / 4)
        if keep in (0.25, 0.5, 0.75):
            assert abs(shares[-1] - keep) < 0.15  # as on the validation rows, or nearly so
    assert shares == sorted(shares)
    assert shares[-1] == 1
    curve = recommender.spec.curve
    assert [point.keep for point in curve] == sorted(point.keep for point in curve)


@pytest.mark.parametrize(
    "options",
    [
        {"k": 4},
        {"k": 9, "explain": True, "exclude_seen": False},
        {"k": 40, "deny": IDS[:3]},
        {"k": 3, "allow": [IDS[5], "none such", 2], "keep": 0.5, "explain": True},
        {"k": 2, "allow": []},
    ],
)
def test_a_table_has_the_answers_of_lists(
    recommender: Recommender, options: dict[str, Any]
) -> None:
    generator = np.random.default_rng(3)
    names = [*IDS, "unknown", "", "7 "]
    histories: list[list[str | int]] = [
        generator.choice(names, generator.integers(0, 9)).tolist() for _ in range(40)
    ]
    expected = recommender.recommend(histories, **options)
    fields = ("items", "scores", "source", "unknown", "read", "kept_blocks")
    wanted = [{name: getattr(one, name) for name in fields} for one in expected]
    column = pa.array(histories, pa.list_(pa.string()))
    longer = pa.concat_arrays([column[:7], column])
    large = column.cast(pa.large_list(pa.large_string()))
    for given in (histories, column, longer[7:], pa.chunked_array([column[:5], column[5:]]), large):
        assert recommender.recommend_table(given, **options).to_pylist() == wanted


def test_a_table_of_whole_numbers_and_of_nothing(recommender: Recommender) -> None:
    numbers = [[4, 2], [], [6, 10**12]]
    wanted = [one.items for one in recommender.recommend(numbers, k=3)]
    mixed = [["4", 2], [], [6, str(10**12)]]
    huge = [[4, 2], None, [6, 2**70]]
    for given in (numbers, pa.array(numbers), mixed, huge, pa.array([[4, 2], None, [6, 9]])[:2]):
        found = recommender.recommend_table(given, k=3)["items"].to_pylist()
        assert found == wanted[: len(found)]
    assert recommender.recommend_table([], k=3).num_rows == 0
    assert recommender.recommend_table([[], []], k=3)["source"].to_pylist() == ["popularity"] * 2


@pytest.mark.parametrize(
    ("histories", "message"),
    [
        (["item 1"], "histories are a column of string; expected lists of item ids"),
        (["item 1", ["2"]], "history 0 is 'item 1'; expected a list of item ids"),
        ([5, ["2", 1]], "history 0 is 5; expected a list"),
        ([[1.5]], "histories are a column of list<.*double>; expected lists"),
        ([["item 1", 1.5]], r"history 0 holds 1.5; expected ids as text or as whole numbers"),
        ([[], ["2", None]], "history 1 holds None; expected ids as text or as whole numbers"),
        ([["2"], [True]], "history 1 holds True; expected ids"),
        (pa.array([None, [None, "2"]]), "history 1 holds None; expected ids"),
    ],
)
def test_a_wrong_column_is_refused(recommender: Recommender, histories: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        recommender.recommend_table(histories)


def test_arrow_columns_and_threads(recommender: Recommender) -> None:
    generator = np.random.default_rng(2)
    histories = [generator.choice(IDS, 6).tolist() for _ in range(50)]
    expected = recommender.recommend(histories, k=4)
    column = pa.chunked_array([pa.array(histories[:20]), pa.array(histories[20:])])
    table = recommender.recommend_table(column, k=4)
    assert table["items"].to_pylist() == [one.items for one in expected]
    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(lambda _: recommender.recommend(histories, k=4), range(8)))
    assert all(result == expected for result in results)


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        ({"histories": ["item 1", "2"]}, "history 0 is 'item 1'; expected a list of item ids"),
        ({"histories": [5]}, "history 0 is 5"),
        ({"histories": [["item 1", 2.5]]}, "history 0 holds 2.5; expected ids as text or as whole"),
        ({"histories": [[True]]}, "history 0 holds True"),
        ({"histories": [[None]]}, "history 0 holds None"),
        ({"k": 0}, "expected k from 1 to 10000, got 0"),
        ({"k": 10_001}, "got 10001"),
        ({"keep": 1.5}, "expected keep from 0 to 1"),
        ({"allow": [2.5]}, "allow or deny holds 2.5"),
    ],
)
def test_a_wrong_request_is_refused(
    recommender: Recommender, request_: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        recommender.recommend(**{"histories": [["item 1"]]} | request_)


def test_a_model_without_a_learned_policy_has_no_knob(tmp_path: Path) -> None:
    export_small_model(tmp_path / "model", "fixed")
    loaded = Recommender.load(tmp_path / "model", executor="numpy")
    assert loaded.recommend([["item 1"]], explain=True)[0].kept_blocks == [0, 2]
    assert loaded.recommend([["item 1"]], explain=True, keep=1)[0].kept_blocks == [0, 1, 2, 3]
    with pytest.raises(ValueError, match=r"keep=0\.5 needs a learned policy or exits, .* 'fixed'"):
        loaded.recommend([["item 1"]], keep=0.5)


@pytest.mark.parametrize("executor", ["native", "numpy"])
@pytest.mark.parametrize("readouts", [None, True])
def test_exits_without_a_policy_are_a_knob(
    tmp_path: Path, executor: Any, readouts: bool | None
) -> None:
    if executor == "native":
        native_library()
    network = export_small_model(tmp_path / "model", "none", exits=(1, 2, 4), readouts=readouts)
    loaded = Recommender.load(tmp_path / "model", executor=executor)
    assert [(point.keep, point.setting) for point in loaded.spec.curve] == [
        (0.25, 1.0),
        (0.5, 2.0),
        (1.0, 4.0),
    ]
    row = [7, 2, 3]
    for keep, depth in ((0.1, 1), (0.49, 1), (0.5, 2), (0.99, 2), (1.0, 4), (None, 4)):
        answer = loaded.recommend(
            [[IDS[n - 1] for n in row]], k=5, exclude_seen=False, keep=keep, explain=True
        )[0]
        assert answer.kept_blocks == [*range(depth)]
        shallow = shallow_network(network, depth)
        items_BK, scores_BK = recommend(shallow, torch.tensor([row]), 5, exclude_seen=False)
        assert answer.items == [IDS[item - 1] for item in items_BK[0].tolist()]
        assert answer.scores == pytest.approx(scores_BK[0].tolist(), rel=1e-3, abs=1e-4)


@pytest.mark.parametrize(
    ("kind", "backbone", "changes", "message"),
    [
        ("random", "nextitnet", {}, "decides by chance"),
        ("gumbel", "nextitnet", {"encoder": "gru"}, "policy.encoder"),
        ("none", "gru4rec", {}, "gru4rec"),
    ],
)
def test_what_no_executor_knows_is_not_exported(
    tmp_path: Path, kind: str, backbone: str, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        export_small_model(tmp_path / "model", kind, backbone, **changes)
    assert not list(tmp_path.iterdir())


def test_an_export_takes_no_folder_that_is_there(folder: Path) -> None:
    with pytest.raises(ValueError, match="exists; expected a new folder"):
        export_small_model(folder)


def test_other_answers_than_the_exported_ones_are_refused(folder: Path) -> None:
    model = read_saved_model(folder)
    model.weights["head.bias_V"] = model.weights["head.bias_V"] + 1
    with pytest.raises(ValueError, match="does not reproduce the exported answers"):
        Recommender(model, executor="numpy")


def test_serving_imports_no_torch(folder: Path) -> None:
    program = (
        "import sys\n"
        "from skiprec.inference import Recommender\n"
        f"answer = Recommender.load({str(folder)!r}).recommend([['item 1']])\n"
        "assert len(answer[0].items) == 20\n"
        "heavy = {'torch', 'ray', 'deepspeed', 'pydantic', 'scipy'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    subprocess.run([sys.executable, "-W", "ignore", "-c", program], check=True)


@pytest.mark.parametrize("options", [{"allow": ["none such"]}, {"allow": []}, {"deny": IDS}])
def test_where_no_item_is_allowed_lists_are_empty(
    recommender: Recommender, options: dict[str, Any]
) -> None:
    answers = recommender.recommend([[IDS[0]], []], **options)
    assert [(one.items, one.scores) for one in answers] == [([], [])] * 2


def test_an_explained_answer_says_where_the_time_went(recommender: Recommender) -> None:
    rows = [IDS[:5]] * 40
    recommender.recommend(rows)
    start_s = time.perf_counter()
    (one, *_) = recommender.recommend(rows, explain=True)
    whole_ms = 1000 * (time.perf_counter() - start_s)
    parts = one.part_ms
    assert parts is not None
    assert min(parts.policy, parts.blocks, parts.head) > 0
    assert parts.policy + parts.blocks + parts.head <= whole_ms
    (given, *_) = recommender.recommend(rows, keep=1, explain=True)
    assert given.part_ms is not None
    assert given.part_ms.policy <= 0.1 * given.part_ms.blocks, "nothing is decided"
    assert recommender.recommend(rows)[0].part_ms is None


def test_names_of_items_come_with_an_export(tmp_path: Path, recommender: Recommender) -> None:
    names = [None if n % 3 == 0 else f"name {n}" for n in range(NUM_ITEMS)]
    export_small_model(tmp_path / "named", names=names)
    assert Recommender.load(tmp_path / "named").names == names
    assert recommender.names == [None] * NUM_ITEMS
