"""Back-off models of order k against plain counting, and what they say of data with and without
order."""

import json
import math
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jobs.measure_order import main
from skiprec.data.ingest import build_dataset, make_recipe
from skiprec.evaluation.order import markov
from skiprec.evaluation.order.markov import MarkovModel
from skiprec.evaluation.order.measure import OrderMeasured
from skiprec.evaluation.order.report import OrderReport, order_report

NUM_ITEMS, WINDOW, MAX_ORDER = 6, 5, 3


def obvious(train: list[list[int]], history: list[int], target: int) -> list[tuple[int, float]]:
    """Rank and nats of the target at the orders 0..MAX_ORDER, by a dictionary of contexts."""
    counts: dict[tuple[int, ...], Counter[int]] = defaultdict(Counter)
    for row in train:
        for place, item in enumerate(row):
            for order in range(min(place, MAX_ORDER) + 1):
                counts[tuple(row[place - order : place])][item] += 1
    total = sum(len(row) for row in train) + NUM_ITEMS
    p = {item: (counts[()][item] + 1) / total for item in range(1, NUM_ITEMS + 1)}
    numbers = [score(p, target)]
    for order in range(1, MAX_ORDER + 1):
        context = tuple(history[len(history) - order :]) if order <= len(history) else None
        found = counts.get(context, Counter()) if context is not None else Counter()
        if found:
            n, t = sum(found.values()), len(found)
            p = {item: (found[item] + t * p[item]) / (n + t) for item in p}
        numbers.append(score(p, target))
    return numbers


def score(p: dict[int, float], target: int) -> tuple[int, float]:
    def is_ahead(item: int) -> bool:
        is_equal = math.isclose(p[item], p[target], rel_tol=1e-12)
        return item < target if is_equal else p[item] > p[target]

    return 1 + sum(map(is_ahead, p)), -math.log(p[target])


def padded(rows: list[list[int]]) -> np.ndarray:
    return np.array([[0] * (WINDOW - len(row)) + row for row in rows], np.int32)


ROWS = st.lists(
    st.lists(st.integers(1, NUM_ITEMS), min_size=2, max_size=WINDOW), min_size=1, max_size=12
)


@settings(max_examples=60, deadline=None)
@given(train=ROWS, held_out=ROWS, cut=st.integers(1, 12))
def test_ranks_and_nats_are_those_of_plain_counting(
    train: list[list[int]], held_out: list[list[int]], cut: int
) -> None:
    rows_RW = padded(held_out)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(markov, "_PENDING", 3)  # so that pairs are added up in several steps
        model = MarkovModel(rows_RW[:, :-1], NUM_ITEMS, MAX_ORDER)
        model.count([padded(train)[:cut], padded(train)[cut:]])
        rank_RK, nats_RK = model.ranks(rows_RW[:, -1])
    for row, history in enumerate(held_out):
        expected = obvious(train, history[:-1], history[-1])
        np.testing.assert_allclose(nats_RK[row], [nats for _, nats in expected], rtol=1e-9)
        assert rank_RK[row].tolist() == [rank for rank, _ in expected]


def build(folder: Path, depends_on_two: bool, num_items: int = 40, num_users: int = 600) -> Path:
    """Users whose next item follows from the last item, or from the last two."""
    draw = np.random.default_rng(0)
    follows = draw.permutation(num_items * num_items) % num_items
    lines = []
    for user in range(num_users):
        items = list(draw.integers(0, num_items, 2))
        while len(items) < 30:
            before = items[-2] if depends_on_two else 0
            is_noise = draw.random() < 0.2
            following = follows[before * num_items + items[-1]]
            items.append(int(draw.integers(num_items)) if is_noise else int(following))
        lines.append(f"u{user} " + " ".join(f"i{item}" for item in items))
    (folder / "log.txt").write_text("\n".join(lines))
    content = {
        "name": "t",
        "window": 15,
        "source": {"kind": "sequences", "first_field_is_user": True},
        "split": {"kind": "by_user", "test_frac": 0.3},
    }
    build_dataset(make_recipe(content, {}, "t"), [folder / "log.txt"], folder / "d", progress=str)
    return folder / "d"


@pytest.mark.parametrize("depends_on_two", [True, False])
def test_the_job_finds_order_where_there_is_some(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], depends_on_two: bool
) -> None:
    data = build(tmp_path, depends_on_two)
    assert main(["--data", str(data), "--output", str(tmp_path / "o")]) == 0
    report: OrderReport = json.loads((tmp_path / "o" / "order.json").read_text())
    hits = [row["hr@10"] for row in report["orders"]]
    if depends_on_two:
        assert hits[2] > hits[1] + 0.1
        assert report["statement"].startswith("Order beyond the last item is there to be learned")
    else:
        assert hits[1] > hits[0] + 0.1
        assert report["statement"].startswith("Counting shows no order beyond the last item")
    assert report["statement"] in capsys.readouterr().out.replace("\n", " ")
    assert (tmp_path / "o" / "order.png").stat().st_size > 10_000
    assert "## By length of the history" in (tmp_path / "o" / "order.md").read_text()


def statement_of(data: Path, output: Path) -> str:
    assert main(["--data", str(data), "--output", str(output)]) == 0
    report: OrderReport = json.loads((output / "order.json").read_text())
    return report["statement"]


def test_order_is_found_where_every_list_of_ten_has_the_item(tmp_path: Path) -> None:
    statement = statement_of(build(tmp_path, True, num_items=9), tmp_path / "o")
    assert statement.startswith("Order beyond the last item is there to be learned: the last 2")
    assert "MRR@20" in statement


def test_few_users_are_too_few_to_say(tmp_path: Path) -> None:
    statement = statement_of(build(tmp_path, True, num_users=40), tmp_path / "o")
    assert "too few to say" in statement


def test_targets_that_were_never_trained_on_measure_nothing(tmp_path: Path) -> None:
    lines = [f"u{user} " + " ".join(f"i{user}-{n}" for n in range(8)) for user in range(40)]
    (tmp_path / "log.txt").write_text("\n".join(lines))
    content = {
        "name": "t",
        "window": 8,
        "source": {"kind": "sequences", "first_field_is_user": True},
        "split": {"kind": "leave_one_out"},
    }
    recipe = make_recipe(content, {}, "t")
    build_dataset(recipe, [tmp_path / "log.txt"], tmp_path / "d", progress=str)
    statement = statement_of(tmp_path / "d", tmp_path / "o")
    assert statement.startswith("Not measured: 40 of 40 targets are in no training row")


def test_what_is_not_ahead_of_popularity_is_no_order() -> None:
    """A last item that tells less than nothing is easy to beat, by a context seldom found."""

    def statement(popular: int) -> str:
        rank_RK = np.full((200, 3), 99)
        rank_RK[:30, 2] = 1
        rank_RK[30:62, 0] = popular
        rows = np.arange(200)
        measured = OrderMeasured(rank_RK, np.ones((200, 3)), rows, rows, 0, 9, 9, 200)
        return order_report(measured, {})["statement"]

    assert statement(99).startswith("Order beyond the last item is there")
    assert statement(1).startswith("Counting shows no order")


def test_the_results_need_a_folder_before_anything_is_counted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    data = build(tmp_path, True, num_users=40)
    assert main(["--data", str(data), "--output", str(tmp_path / "file" / "o")]) == 2
    said = capsys.readouterr()
    assert "o cannot be created (Not a directory" in said.err
    assert "counting" not in said.out


def test_the_sample_is_stated_and_a_wrong_folder_is_an_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = build(tmp_path, True)
    few = ("--max-rows", "50", "--max-train-items", "3000", "--output", str(tmp_path / "o"))
    assert main(["--data", str(data), *few]) == 0
    conditions = json.loads((tmp_path / "o" / "order.json").read_text())["conditions"]
    assert conditions["rows"].startswith("50 of ")
    assert conditions["train_rows"].startswith("200 of ")
    assert main(["--data", str(tmp_path / "none")]) == 2
    assert "no such folder" in capsys.readouterr().err
