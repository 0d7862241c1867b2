"""The rows that a policy is fitted on, and those on which it is validated."""

from pathlib import Path

import numpy as np

from skiprec.config.training import TrainingConfig
from skiprec.data.halves import rows_to_train, rows_to_validate
from skiprec.data.shards import ShardSet
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
