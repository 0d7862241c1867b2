"""Items have names for people: from any kind of table, and no row changes because of them."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet
import pytest

from skiprec.data.ingest.item_names import NameTable, read_names
from skiprec.data.ingest.pipeline import build_dataset
from skiprec.data.ingest.recipe import make_recipe
from skiprec.data.manifest import read_manifest
from tests.unit.data.test_scripts import run

NAMES = {"7": "bread, white", "8": "milk", "9": "Äpfel"}


def as_text(folder: Path) -> NameTable:
    path = folder / "movies.dat"
    path.write_bytes("7::bread, white\n8::milk\n9::Äpfel\n7::another\n".encode("latin-1"))
    how = {"separator": "::", "header": False, "encoding": "latin-1"}
    return NameTable([path], "1", ("2",), tuple(how.items()))


def as_parquet(folder: Path) -> NameTable:
    path = folder / "products.parquet"
    rows = {"id": [7, 8, 9, 10], "what": ["bread", " milk\n", "Äpfel", None]}
    pyarrow.parquet.write_table(pa.table({**rows, "kind": ["white", None, "", None]}), path)
    return NameTable([path], "id", ("what", "kind"))


def as_json(folder: Path) -> NameTable:
    path = folder / "items.jsonl"
    lines = [f'{{"id": {item}, "title": "{name}"}}' for item, name in NAMES.items()]
    path.write_text("\n".join(lines))
    return NameTable([path], "id", ("title",))


@pytest.mark.parametrize("write", [as_text, as_parquet, as_json])
def test_names_of_any_kind_of_table(tmp_path: Path, write: Any) -> None:
    assert read_names(write(tmp_path)) == NAMES


def test_a_column_that_is_not_there(tmp_path: Path) -> None:
    table = as_parquet(tmp_path)
    with pytest.raises(ValueError, match=r"'nmae'.*products.parquet|products.parquet.*'nmae'"):
        read_names(NameTable(table.files, "id", ("nmae",)))


@pytest.fixture
def log(tmp_path: Path) -> Path:
    path = tmp_path / "log.csv"
    lines = [f"u{n % 9},{7 + n % 4},{list(NAMES.values())[n % 3]!r},{n}" for n in range(100)]
    path.write_text("\n".join(["user,item,called,when", *lines]).replace("'", '"'))
    return path


def test_a_dataset_holds_them_and_its_rows_are_those_without(log: Path, tmp_path: Path) -> None:
    source = {"kind": "text", "user_column": "user", "item_column": "item", "time_column": "when"}
    content = {"name": "shop", "window": 5, "split": {"kind": "leave_one_out"}}
    recipe = make_recipe(content | {"source": source}, {}, origin="test")
    plain, named = tmp_path / "plain", tmp_path / "named"
    build_dataset(recipe, [log], plain, progress=str)
    build_dataset(recipe, [log], named, progress=str, item_names=as_text(tmp_path))
    one, other = read_manifest(plain), read_manifest(named)
    assert {split: info.files for split, info in one.splits.items()} == {
        split: info.files for split, info in other.splits.items()
    }
    assert other.edition == {"item names": "movies.dat: 1 -> 2"}
    items = pa.ipc.open_file(pa.memory_map(str(named / "items.arrow"))).read_all()
    by_id = dict(zip(items["original_id"].to_pylist(), items["name"].to_pylist(), strict=True))
    assert by_id == NAMES | {"10": None}
    without = pa.ipc.open_file(pa.memory_map(str(plain / "items.arrow"))).read_all()
    assert items.drop_columns("name").equals(without)


def test_the_options_of_the_command(log: Path, tmp_path: Path) -> None:
    columns = ["--user-column", "user", "--item-column", "item", "--time-column", "when"]
    build = ["--input", log, *columns, "--window", 5, "--output", tmp_path / "out"]
    names = ["--item-names", log, "--item-names-columns", "item", "called"]
    run("build_interactions.py", *build, *names)
    items = pa.ipc.open_file(pa.memory_map(str(tmp_path / "out/items.arrow"))).read_all()
    assert set(items["name"].to_pylist()) <= set(NAMES.values())
    for wrong, message in (
        (["--item-names", log], "needs the column of the id and one or more of the name"),
        (["--item-names-columns", "item", "called"], "need --item-names"),
        ([*names, "--item-names-set", "window=4"], "expected a key of source"),
    ):
        error = run("build_interactions.py", *build[:-1], tmp_path / "x", *wrong, code=1)
        assert message in error
