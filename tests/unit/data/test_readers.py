"""One log in every format that can be read gives one and the same dataset."""

import gzip
from datetime import date
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from skiprec.data.ingest import build_dataset, make_recipe
from skiprec.data.ingest.conditions import apply_condition, parse_condition
from skiprec.data.ingest.inputs import check_inputs
from skiprec.data.ingest.parsing import order_key, parse_times
from skiprec.data.ingest.recipe import Recipe
from skiprec.data.manifest import Manifest

LOG = [(f"{n * 7 % 4}", f"{n * 5 % 9}", 100 - n // 3) for n in range(60)]
NAMED = {"user_column": "user", "item_column": "item", "time_column": "time"}
NUMBERED = {"user_column": "1", "item_column": "2", "time_column": "4", "header": False}


def build(folder: Path, file: Path, source: dict[str, Any], **sizes: int) -> Manifest:
    output = folder / file.name.replace(".", "_")
    return build_dataset(recipe_of(source), [file], output, progress=str, num_buckets=3, **sizes)


def recipe_of(source: dict[str, Any]) -> Recipe:
    content = {"name": "t", "window": 5, "source": source, "split": {"kind": "by_window"}}
    return make_recipe(content, {}, origin="test")


def write(path: Path, text: str) -> Path:
    data = text.encode()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


def by_user() -> dict[str, list[str]]:
    histories: dict[str, list[str]] = {}
    for user, item, _ in sorted(LOG, key=lambda row: row[2]):
        histories.setdefault(user, []).append(item)
    return histories


@pytest.fixture(scope="module")
def content_hash(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("plain")
    lines = ["user,item,time", *(f"{u},{i},{t}" for u, i, t in LOG)]
    return build(
        folder, write(folder / "a.csv", "\n".join(lines)), {"kind": "text"} | NAMED
    ).content_hash


def lines_of(separator: str, end: str = "\n", quote: str = "") -> str:
    return "".join(
        separator.join([f"{quote}{u}{quote}", f"{quote}{i}{quote}", "5", str(t)]) + end
        for u, i, t in LOG
    )


TEXTS = {
    "windows_line_ends.csv": ("user,item,x,time\r\n" + lines_of(",", "\r\n"), NAMED),
    "byte_order_mark.csv": ("\ufeffuser,item,x,time\n" + lines_of(","), NAMED),
    "blank_first_line.csv": ("\nuser,item,x,time\n" + lines_of(","), NAMED),
    "packed.csv.gz": ("user,item,x,time\n" + lines_of(","), NAMED),
    "quoted.csv": ('"user","item",x,time\n' + lines_of(",", quote='"'), NAMED),
    "tabs.tsv": (lines_of("\t"), NUMBERED | {"separator": "\t", "quoted": False}),
    "colons.dat": (lines_of("::"), NUMBERED | {"separator": "::"}),
    "recbole.inter": (
        "user:token\titem:token\tx:float\ttime:float\n" + lines_of("\t"),
        NAMED | {"separator": "\t"},
    ),
    "iso.csv": (
        "user,item,time\n"
        + "".join(f"{u},{i},2020-01-01 00:{t // 60:02}:{t % 60:02}\n" for u, i, t in LOG),
        NAMED | {"time_format": "iso8601"},
    ),
    "dates.csv": (
        "user,item,time\n"
        + "".join(f"{u},{i},{t % 60:02}s past {t // 60:02}\n" for u, i, t in LOG),
        NAMED | {"time_format": "%Ss past %M"},
    ),
    "order_column.csv": (
        "user,item,pos\n"
        + "".join(
            f"{u},{i},{pos}\n" for u, items in by_user().items() for pos, i in enumerate(items)
        ),
        {"user_column": "user", "item_column": "item", "order_column": "pos"},
    ),
    "integer.csv": (
        "user,item,time\n" + "".join(f"{u},{i},{10**18 + t}\n" for u, i, t in LOG),
        NAMED | {"time_format": "integer"},
    ),
}


@pytest.mark.parametrize("block_bytes", [80, 1 << 20])
@pytest.mark.parametrize("name", TEXTS)
def test_text(tmp_path: Path, content_hash: str, name: str, block_bytes: int) -> None:
    text, source = TEXTS[name]
    file = write(tmp_path / name, text)
    built = build(tmp_path, file, {"kind": "text"} | source, block_bytes=block_bytes)
    assert built.content_hash == content_hash


def test_the_time_column_matters(tmp_path: Path, content_hash: str) -> None:
    """Control: the same rows without their times are another dataset."""
    file = write(tmp_path / "log.csv", "user,item,x,time\n" + lines_of(","))
    source = {"kind": "text", "user_column": "user", "item_column": "item"}
    assert build(tmp_path, file, source).content_hash != content_hash


@pytest.mark.parametrize("user_type", [pa.string(), pa.int64(), pa.float64(), "dictionary"])
@pytest.mark.parametrize("time_type", [pa.int64(), pa.float64(), pa.timestamp("s"), pa.date32()])
def test_parquet(tmp_path: Path, content_hash: str, user_type: Any, time_type: Any) -> None:
    users = pa.array([u for u, _, _ in LOG])
    users = users.dictionary_encode() if user_type == "dictionary" else users.cast(user_type)
    whole = pa.int32() if time_type == pa.date32() else pa.int64()
    times = pa.array([t for _, _, t in LOG], whole)
    table = pa.table({"user": users, "item": [i for _, i, _ in LOG], "time": times.cast(time_type)})
    pq.write_table(table, tmp_path / "log.parquet", row_group_size=17)
    built = build(tmp_path, tmp_path / "log.parquet", {"kind": "parquet"} | NAMED, block_bytes=320)
    assert built.content_hash == content_hash


def test_parquet_files_whose_times_are_of_unlike_types_are_refused(tmp_path: Path) -> None:
    files = []
    for number, kind in enumerate([pa.int64(), pa.float64()]):
        files.append(tmp_path / f"{number}.parquet")
        times = pa.array([t for _, _, t in LOG]).cast(kind)
        columns = {"user": [u for u, _, _ in LOG], "item": [i for _, i, _ in LOG], "time": times}
        pq.write_table(pa.table(columns), files[-1])
    recipe = recipe_of({"kind": "parquet"} | NAMED)
    with pytest.raises(ValueError, match=r"whole numbers in .*0.parquet and fractions in .*1.parq"):
        check_inputs(recipe, [(file, "train") for file in files])
    check_inputs(recipe, [(files[1], "train")])


def test_a_date_beyond_what_can_be_ordered_is_a_bad_row(tmp_path: Path) -> None:
    days = [date(2020, 1, 1)] * (len(LOG) - 1) + [date(9999, 12, 31)]
    columns = {"user": [u for u, _, _ in LOG], "item": [i for _, i, _ in LOG], "time": days}
    pq.write_table(pa.table(columns), tmp_path / "log.parquet")
    with pytest.raises(ValueError, match=rf"row {len(LOG)}: unreadable time .*9999"):
        build(tmp_path, tmp_path / "log.parquet", {"kind": "parquet"} | NAMED)


@pytest.mark.parametrize("block_bytes", [3, 1 << 20])
@pytest.mark.parametrize("name", ["log.txt", "log.txt.gz"])
def test_sequences(tmp_path: Path, content_hash: str, name: str, block_bytes: int) -> None:
    lines = [f"{user}  {' '.join(items)}\t" for user, items in by_user().items()]
    file = write(tmp_path / name, "\n\n".join(lines))
    source = {"kind": "sequences", "first_field_is_user": True}
    assert build(tmp_path, file, source, block_bytes=block_bytes).content_hash == content_hash


def test_sequences_without_users_are_named_by_file_and_line(tmp_path: Path) -> None:
    train = write(tmp_path / "train.txt", "1 2 3\n\n2 3 1\n")
    test = write(tmp_path / "test.txt", "3 2 1\n")
    content = {
        "name": "t",
        "window": 5,
        "source": {"kind": "sequences", "first_field_is_user": False},
        "split": {"kind": "given", "validation_frac": 0.0},
    }
    output = tmp_path / "out"
    recipe = make_recipe(content, {}, origin="test")
    built = build_dataset(recipe, [train], output, test_inputs=[test], progress=str)
    users = pa.ipc.open_file(str(output / "users.arrow")).read_all()
    assert set(users["original_id"].to_pylist()) == {"1:1", "1:3", "2:1"}
    assert {name: split.rows for name, split in built.splits.items()} == {
        "train": 2,
        "validation": 0,
        "test": 1,
    }


@pytest.mark.parametrize(
    ("text", "values", "holds"),
    [
        ("n > 2", ["1", "2.5", "3", ""], [False, True, True, False]),
        ("n <= 2.5", ["1", "2.5", "3", ""], [True, True, False, False]),
        ("n == 2.50", ["2.5", "2.50"], [False, True]),
        ("n != a", ["a", "b", ""], [False, True, True]),
        ("n == 2", [2.0, 3.0, None], [True, False, False]),
        ("n != 2", [2, 3, None], [False, True, True]),
        ("n is empty", ["", "a"], [True, False]),
        ("n is not empty", [None, 1.0], [False, True]),
        ("two words >= 1", ["1", "0"], [True, False]),
    ],
)
def test_conditions(text: str, values: list[Any], holds: list[bool]) -> None:
    found, unreadable = apply_condition(parse_condition(text), pa.array(values))
    assert found.tolist() == holds
    assert not unreadable.any()


def test_conditions_flag_what_is_no_number() -> None:
    _, unreadable = apply_condition(parse_condition("n > 2"), pa.array(["1", "x", ""]))
    assert unreadable.tolist() == [False, True, False]
    for text in ("n", "n > x", "> 3 4", "n ~ 2"):
        with pytest.raises(ValueError, match="condition"):
            parse_condition(text)


def test_order_keys_sort_as_the_numbers_do() -> None:
    numbers = [-1e300, -2.5, -1.0, -1e-300, 0.0, 1e-300, 0.5, 3.0, 1e300]
    keys, readable = parse_times(pa.array([str(n) for n in numbers]), "number")
    assert (keys[1:] > keys[:-1]).all()
    assert readable.tolist() == [abs(n) < 2**53 for n in numbers]
    zeros = order_key(pa.array([0.0, -0.0]).to_numpy())
    assert zeros[0] == zeros[1]
