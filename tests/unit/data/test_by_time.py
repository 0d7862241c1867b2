"""The split by time lets nothing of the future into training; cut-offs are dates or shares."""

from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skiprec.data.ingest import build_dataset, make_recipe
from skiprec.data.ingest.cut_offs import time_at_share
from skiprec.data.manifest import Manifest
from skiprec.data.schema import SPLIT_NAMES
from skiprec.data.shards import ShardSet

DAY = 86_400


def build(folder: Path, seconds: list[int], **overrides: Any) -> Manifest:
    """Five users take turns; one interaction at each time (seconds since 1970)."""
    log = folder / "log.csv"
    lines = [f"u{n % 5},i{n % 7},{time}" for n, time in enumerate(seconds)]
    log.write_text("\n".join(["user,item,time", *lines]) + "\n")
    content = {
        "name": "t",
        "window": 4,
        "min_items": 2,
        "times": True,
        "source": {
            "kind": "text",
            "user_column": "user",
            "item_column": "item",
            "time_column": "time",
            "time_unit": "s",
        },
        "filters": {"min_history": 2},
        "split": {"kind": "by_time", "validation_from": 0.5, "test_from": 0.75},
    }
    recipe = make_recipe(content, overrides, origin="test")
    return build_dataset(recipe, [log], folder / "out", progress=str, num_buckets=2)


@settings(max_examples=25, deadline=None)
@given(
    times=st.lists(st.integers(-400, 400), min_size=60, max_size=150, unique=True),
    ends=st.sampled_from(["last", "random", "all"]),
)
def test_no_training_row_holds_anything_later_than_a_cut_off(
    tmp_path_factory: pytest.TempPathFactory, times: list[int], ends: str
) -> None:
    folder = tmp_path_factory.mktemp("by_time")
    manifest = build(folder, times, **{"split.evaluation_ends": ends})
    assert manifest.profile is not None
    assert manifest.profile.cut_offs is not None
    first, second = (
        datetime.fromisoformat(text).timestamp() * 1000 for text in manifest.profile.cut_offs
    )
    times_of = {}
    for split in SPLIT_NAMES:
        shards = ShardSet.open(folder / "out", split)
        times_of[split] = shards.slice(0, shards.num_rows)
    for split, rows in times_of.items():
        is_item_RW = rows.items_RW > 0
        assert (rows.times_RW[~is_item_RW] == 0).all()
        assert (np.diff(np.where(is_item_RW, rows.times_RW, -(10**9)), axis=1) >= 0).all()
        last_R = rows.times_RW[:, -1]
        if split == "train":
            assert (rows.times_RW[is_item_RW] < first).all()
        elif split == "validation":
            assert ((first <= last_R) & (last_R < second)).all()
        else:
            assert (second <= last_R).all()
    if ends == "all":  # control: rows do reach back over the cut-offs, so the claims are not empty
        assert (times_of["test"].times_RW < second).any()


@pytest.mark.parametrize("cut_offs", [("1970-01-21", "1970-02-10"), (0.4, 0.8)])
def test_cut_offs_are_dates_or_shares(tmp_path: Path, cut_offs: tuple[Any, Any]) -> None:
    times = [n * DAY for n in range(50)]
    keys = ("split.validation_from", "split.test_from")
    manifest = build(tmp_path, times, **dict(zip(keys, cut_offs, strict=True)))
    assert manifest.profile is not None
    assert manifest.profile.cut_offs == ("1970-01-21T00:00:00Z", "1970-02-10T00:00:00Z")
    assert manifest.profile.spans["train"] == ("1970-01-01T00:00:00Z", "1970-01-20T00:00:00Z")
    assert manifest.schema_version == 2


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"split.validation_from": "soon"}, "'soon' is no date"),
        ({"split.validation_from": 1.5}, "expected one between 0 and 1"),
        ({"split.validation_from": 0.8}, "does not lie behind"),
        ({"split.validation_from": "2001-01-01"}, "expected the first to be earlier"),
        ({"source.time_unit": None}, "needs dates, for times; expected source.time_column"),
        ({"split.max_ends": 3}, "has no effect with split.evaluation_ends = 'last'"),
    ],
)
def test_cut_offs_that_make_no_sense(
    tmp_path: Path, overrides: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        build(tmp_path, [n * DAY for n in range(50)], **overrides)


@given(
    st.lists(st.integers(-(2**61), 2**61) | st.integers(0, 9), min_size=1, max_size=200),
    st.floats(0.01, 0.99),
    st.integers(1, 5),
)
def test_the_time_at_a_share_is_that_of_a_sorted_list(
    times: list[int], share: float, num_pieces: int
) -> None:
    pieces = np.array_split(np.array(times, np.int64), num_pieces)
    assert time_at_share(share, lambda: pieces) == sorted(times)[int(share * len(times))]


def test_without_times_the_version_and_the_rows_are_those_of_before(tmp_path: Path) -> None:
    manifest = build(tmp_path, [n * DAY for n in range(50)], times=False)
    assert manifest.schema_version == 1
    rows = ShardSet.open(tmp_path / "out", "train").slice(0, 1)
    assert rows.times_RW is None


def test_histories_on_lines_have_no_dates(tmp_path: Path) -> None:
    (tmp_path / "log.txt").write_text("a b c\n" * 5)
    content = {
        "name": "t", "window": 4, "source": {"kind": "sequences", "first_field_is_user": False},
        "split": {"kind": "by_time"},
    }  # fmt: skip
    recipe = make_recipe(content, {}, "test")
    with pytest.raises(ValueError, match="needs dates, for split by_time; expected a table"):
        build_dataset(recipe, [tmp_path / "log.txt"], tmp_path / "out", progress=str)


def test_cut_offs_outside_of_the_data_are_named(tmp_path: Path) -> None:
    log = tmp_path / "log.csv"
    rows = [f"u{n % 5},i{n % 7},2024-05-{n % 28 + 1:02}" for n in range(200)]
    log.write_text("\n".join(["user,item,time", *rows]))
    content = {
        "name": "t", "window": 4,
        "source": {
            "kind": "text", "user_column": "user", "item_column": "item", "time_column": "time",
            "time_format": "iso8601",
        },
    }  # fmt: skip

    def build(validation_from: str, test_from: str) -> list[str]:
        split = {"kind": "by_time", "validation_from": validation_from, "test_from": test_from}
        recipe = make_recipe(content | {"split": split}, {}, "test")
        output = tmp_path / f"{validation_from}-{test_from}"
        return build_dataset(recipe, [log], output, progress=str).describe().splitlines()

    with pytest.raises(
        ValueError, match="nothing to train on: the interactions begin at 2024-05-01"
    ):
        build("2024-04-01", "2024-05-10")
    assert "WARNING: there are no test rows, so nothing is measured on them" in build(
        "2024-05-10", "2024-06-10"
    )
    assert not [line for line in build("2024-05-10", "2024-05-20") if "WARNING" in line]
