"""The rows that a policy is fitted on, and those on which it is validated."""

from pathlib import Path

import numpy as np
import pytest

from skiprec.config.training import TrainingConfig
from skiprec.data.batching import TrainingReader
from skiprec.data.halves import items_held_out, rows_to_train, rows_to_validate
from skiprec.data.ingest.pipeline import build_dataset
from skiprec.data.ingest.recipe import load_recipe
from skiprec.data.order import DataOrder
from skiprec.data.shards import Rows, ShardSet
from tests.testkit.runs import build_smoke_data

HELD_OUT = TrainingConfig(fit_on="held_out", freeze_backbone=True)


def test_no_user_is_in_both_halves_and_no_row_is_lost(tmp_path: Path) -> None:
    data = build_smoke_data(tmp_path)
    whole = ShardSet.open(data, "validation")
    halves = [rows_to_train(data, HELD_OUT), rows_to_validate(data, HELD_OUT)]
    rows = [half.take(np.arange(half.num_rows)) for half in halves]
    assert sorted(np.concatenate([part.row_R for part in rows])) == list(range(whole.num_rows))
    assert not set(rows[0].user_R) & set(rows[1].user_R)
    assert min(half.num_rows for half in halves) > whole.num_rows / 4
    places = np.array([3, 0, 3])
    for half, part in zip(halves, rows, strict=True):
        assert np.array_equal(half.take(places).items_RW, part.items_RW[places])
        assert half.num_items == whole.num_items
        assert half.manifest == whole.manifest


def test_without_the_setting_the_splits_are_those_of_the_data(tmp_path: Path) -> None:
    data = build_smoke_data(tmp_path)
    plain = TrainingConfig()
    assert rows_to_train(data, plain).num_rows == ShardSet.open(data, "train").num_rows
    assert rows_to_validate(data, plain).num_rows == ShardSet.open(data, "validation").num_rows


RECIPE = """name = "log"
window = 8
[source]
kind = "text"
user_column = "user"
item_column = "item"
time_column = "time"
time_unit = "s"
[split]
"""
# Whether all items of validation rows are held out, some of them, or one of each row.
SPLITS = {
    'kind = "by_user"': "all",
    'kind = "by_window"': "all",
    'kind = "leave_one_out"': "one",
    'kind = "by_time"': "some",
    'kind = "by_time"\nevaluation_ends = "all"': "some",
}


def build_log(folder: Path, split: str) -> Path:
    """80 users with 3 to 40 items, who begin at different times and come back."""
    rng = np.random.default_rng(0)
    lines = ["user,item,time"]
    for user in range(80):
        time = rng.integers(0, 400)
        for _ in range(rng.integers(3, 40)):
            time += rng.integers(1, 30)
            lines.append(f"u{user},i{rng.integers(30)},{time}")
    (folder / "log.csv").write_text("\n".join(lines) + "\n")
    (folder / "log.toml").write_text(RECIPE + split + "\n")
    build_dataset(
        load_recipe(folder / "log.toml"),
        [folder / "log.csv"],
        folder / "data",
        progress=lambda _: None,
    )
    return folder / "data"


def positions(rows: Rows, row: int) -> set[tuple[int, int]]:
    """(user, position in the history) of each item of a row."""
    user, end = int(rows.user_R[row]), int(rows.end_R[row])
    length = int((rows.items_RW[row] != 0).sum())
    return {(user, position) for position in range(end - length + 1, end + 1)}


@pytest.mark.parametrize("split", SPLITS)
def test_the_items_held_out_are_those_behind_the_trained_ones(tmp_path: Path, split: str) -> None:
    data = build_log(tmp_path, split)
    shards = {name: ShardSet.open(data, name) for name in ("train", "validation")}
    train, rows = (each.slice(0, each.num_rows) for each in shards.values())
    found_R = items_held_out(shards["train"], shards["validation"])
    trained = {
        place: end
        for row, end in enumerate(train.end_R.tolist())
        for place in positions(train, row)
    }
    shares = []
    for row in range(len(rows.end_R)):
        own = sorted(positions(rows, row), reverse=True)
        expected = 0
        while expected < len(own) and trained.get(own[expected], np.inf) > rows.end_R[row]:
            expected += 1
        assert min(found_R[row], len(own)) == expected
        shares.append((expected, len(own)))
    held, lengths = np.array(shares).T
    whole = (held >= lengths - (split == 'kind = "by_window"')).all()
    assert held.min() >= 1
    assert whole == (SPLITS[split] == "all")
    assert (held == 1).all() == (SPLITS[split] == "one")


def test_only_items_that_were_held_out_count_in_a_step(tmp_path: Path) -> None:
    data = build_log(tmp_path, 'kind = "by_time"')
    half = rows_to_train(data, HELD_OUT)
    order = DataOrder(0, half.num_rows)
    (batch,) = TrainingReader(half, order, half.num_rows, 1, 0, None).micro_batches(0)
    rows = half.take(order.rows(0, half.num_rows)[0])
    assert rows.num_scored_R is not None
    is_real_BT = (batch.input_BT != 0) & (batch.target_BT != 0)
    expected = [
        min(int(count), int(real))
        for count, real in zip(rows.num_scored_R, is_real_BT.sum(1), strict=True)
    ]
    assert batch.is_scored_BT.sum(1).tolist() == expected
    assert 0 < batch.is_scored_BT.sum() < is_real_BT.sum()
    assert batch.is_scored_BT[:, -1].tolist() == is_real_BT[:, -1].tolist()
