"""JSON lines: keys that come and go, values of several types, batches of bounded size."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from skiprec.data.ingest.chunks import Tally
from skiprec.data.ingest.json_rows import json_batches
from skiprec.data.ingest.read_table import read_table
from skiprec.data.ingest.recipe import JsonSource, ParquetSource
from tests.unit.data.test_bad_input import build

NAMED = {"user_column": "user", "item_column": "item"}
SOURCE = {"kind": "jsonl"} | NAMED
GOOD = [{"user": user, "item": item} for user in range(9) for item in range(5)]


def write(folder: Path, rows: list[dict[str, Any]], between: str = "\n") -> Path:
    path = folder / "log.jsonl"
    path.write_text(between.join(json.dumps(row) for row in rows))
    return path


def test_json_lines_that_hold_no_single_value_are_bad_rows(tmp_path: Path) -> None:
    rows = [{"user": "a", "item": i} for i in (1, 2, [3], {"id": 4}, float("nan"), 5)]
    file = write(tmp_path, rows)
    source = {"kind": "jsonl", "user_column": "user", "item_column": "item"}
    with pytest.raises(ValueError, match=r"column 'item' holds (list|struct)"):
        build(file, source)
    lists = [["a", "b", "c"], "d e f", [[1], 2, 3], None]
    file = write(tmp_path, [{"user": n, "item": some} for n, some in enumerate(lists)])
    more = {"row_holds": "history", "on_bad_row": "skip"}
    manifest = build(file, source | more)
    assert manifest.num_users == 2
    assert manifest.num_items == 6


def test_a_key_may_come_first_in_a_later_batch(tmp_path: Path) -> None:
    file = write(tmp_path, [*GOOD, *({"user": 9, "item": n, "bot": True} for n in range(5))])
    kept = build(file, SOURCE | {"keep": ["bot is empty"]}, block_bytes=320)
    assert kept.num_users == 9
    (tmp_path / "out").rename(tmp_path / "first")
    assert build(file, SOURCE | {"keep": ["bot == true"]}, block_bytes=320).num_users == 1


@pytest.mark.parametrize("rows", [GOOD, GOOD[:3]])
def test_a_key_that_never_comes_is_named(tmp_path: Path, rows: list[dict[str, Any]]) -> None:
    file = write(tmp_path, rows)
    for more in ({"item_column": "itme"}, {"keep": ["itme is empty"]}):
        with pytest.raises(ValueError, match=r"'itme', found it nowhere .* did you mean 'item'"):
            build(file, SOURCE | more, block_bytes=320)


@pytest.mark.parametrize(
    ("value", "other", "condition"),
    [
        (5.0, 6, "x == 5"),
        (5, 6.5, "x == 5.0"),
        (True, False, "x == True"),
        (2**70, 6, "x == 1180591620717411303424"),
        ("5", "5.0", "x == 5"),  # text is compared as text
    ],
)
def test_conditions_compare_numbers_and_booleans_as_such(
    tmp_path: Path, value: Any, other: Any, condition: str
) -> None:
    rows = [{"user": 9, "item": item, "x": value} for item in range(5)]
    file = write(tmp_path, [*(row | {"x": other} for row in GOOD), *rows])
    assert build(file, SOURCE | {"keep": [condition]}).num_users == 1


def test_a_bad_row_is_named_by_its_line(tmp_path: Path) -> None:
    file = write(tmp_path, [*GOOD, {"user": 1, "item": None}], between="\n\n")
    with pytest.raises(ValueError, match=rf"log\.jsonl line {2 * len(GOOD) + 1}: no item id"):
        build(file, SOURCE, block_bytes=320)
    file.write_text(f"{file.read_text()[:-5]}" + '"\\ud800"}')
    with pytest.raises(ValueError, match=rf"line {2 * len(GOOD) + 1}: no item id"):
        build(file, SOURCE)


def test_batches_count_the_items_of_histories(tmp_path: Path) -> None:
    """Memory is bounded by interactions, not by rows."""
    lists = [list(range(n % 7 + 3)) for n in range(40)]
    rows = [{"user": n, "item": some, "rest": "x" * 50} for n, some in enumerate(lists)]
    source = JsonSource.model_validate(SOURCE | {"row_holds": "history"})
    batches = list(json_batches(write(tmp_path, rows), source, 20))
    assert sum(batch.num_rows for batch, _ in batches) == 40
    assert max(sum(map(len, batch["item"].to_pylist())) for batch, _ in batches) <= 30
    path = tmp_path / "log.parquet"
    for column in (lists, [" ".join(map(str, some)) for some in lists]):
        pq.write_table(pa.table({"user": range(40), "item": column}), path)
        typed = ParquetSource.model_validate(NAMED | {"kind": "parquet", "row_holds": "history"})
        tally = Tally(0, 0, {})
        sizes = [len(chunk.items_N) for chunk in read_table(path, 1, typed, tally, 20)]
        assert sum(sizes) == tally.rows_read == sum(map(len, lists))
        assert max(sizes) <= 30
