"""One log in every format that can be read gives one and the same dataset."""

import bz2
import gzip
import json
import lzma
from datetime import date
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from skiprec.data.ingest import build_dataset, make_recipe
from skiprec.data.ingest.conditions import apply_condition, parse_condition
from skiprec.data.ingest.inputs import check_inputs
from skiprec.data.ingest.parsing import parse_ids, plain
from skiprec.data.ingest.raw_files import content_of, expand_inputs
from skiprec.data.ingest.recipe import Recipe
from skiprec.data.ingest.times import order_key, parse_times
from skiprec.data.manifest import Manifest

PACK = {
    ".gz": gzip.compress,
    ".bz2": bz2.compress,
    ".xz": lzma.compress,
    ".zst": lambda data: pa.compress(data, "zstd", asbytes=True),
}
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
    data = text.encode("utf-16" if "utf16" in path.name else "utf-8")
    if path.suffix == ".zip":
        with ZipFile(path, "w") as archive:
            archive.writestr("__MACOSX/._log", b"x")
            archive.writestr(".DS_Store", b"x")
            archive.writestr("log", data)
    else:
        pack = PACK.get(path.suffix.lower(), bytes)
        path.write_bytes(pack(data))
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
    "old_mac.csv": ("user,item,x,time\r" + lines_of(",", "\r"), NAMED),
    "utf16.csv": ("user,item,x,time\r\n" + lines_of(",", "\r\n"), NAMED),
    "byte_order_mark.csv": ("\ufeffuser,item,x,time\n" + lines_of(","), NAMED),
    "blank_first_line.csv": ("\nuser,item,x,time\n" + lines_of(","), NAMED),
    **{
        f"packed.CSV{suffix}": ("user,item,x,time\n" + lines_of(","), NAMED)
        for suffix in (".gz", ".bz2", ".xz", ".zst", ".zip", ".BZ2")
    },
    "utf16.csv.xz": ("user,item,x,time\n" + lines_of(","), NAMED),
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


def test_json_lines(tmp_path: Path, content_hash: str) -> None:
    """Numbers and text may mix, as they do where several services write one log."""
    rows = [
        {"user": int(u) if n % 2 else u, "item": float(i) if n % 3 else i, "time": t, "x": [n]}
        for n, (u, i, t) in enumerate(LOG)
    ]
    file = write(tmp_path / "log.jsonl.gz", "\n\n".join(json.dumps(row) for row in rows))
    source = {"kind": "jsonl"} | NAMED
    assert content_of(file) == "jsonl"
    assert build(tmp_path, file, source, block_bytes=320).content_hash == content_hash
    file = write(tmp_path / "torn.jsonl", '{"user": 1, "item"\n')
    with pytest.raises(ValueError, match=r"line 1: expected a JSON object"):
        build(tmp_path, file, source)


@pytest.mark.parametrize("form", ["file", "stream"])
def test_arrow(tmp_path: Path, content_hash: str, form: str) -> None:
    columns = dict(zip(("user", "item", "time"), zip(*LOG, strict=True), strict=True))
    table = pa.table({name: pa.array(values) for name, values in columns.items()})
    path = tmp_path / "log.feather"
    new = pa.ipc.new_file if form == "file" else pa.ipc.new_stream
    with new(str(path), table.schema) as writer:
        writer.write_table(table, max_chunksize=25)
    assert content_of(path) == "arrow"
    built = build(tmp_path, path, {"kind": "arrow"} | NAMED, block_bytes=320)
    assert built.content_hash == content_hash


@pytest.mark.parametrize("kind", ["text", "parquet", "jsonl"])
def test_a_row_may_hold_a_history(tmp_path: Path, content_hash: str, kind: str) -> None:
    users, lists = list(by_user()), list(by_user().values())
    path = tmp_path / "log.x"
    if kind == "parquet":
        lists = pa.array([[int(i) for i in items] for items in lists])  # type: ignore[assignment]
        pq.write_table(pa.table({"user": users, "item": lists}), path)
    elif kind == "text":
        lines = [f"{user},{' '.join(items)}" for user, items in zip(users, lists, strict=True)]
        write(path, "\n".join(["user,item:token_seq", *lines]))
    else:
        rows = zip(users, lists, strict=True)
        write(path, "\n".join(json.dumps({"user": u, "item": items}) for u, items in rows))
    source = {"kind": kind, "user_column": "user", "item_column": "item", "row_holds": "history"}
    assert build(tmp_path, path, source, block_bytes=64).content_hash == content_hash


def test_rows_with_histories_and_no_users_are_named_by_file_and_row(tmp_path: Path) -> None:
    """Each row is a user of its own, as games and sessions are; its time orders nothing then."""
    log = write(tmp_path / "games.tsv", "when\tmoves\n2018.??.??\t5 6 7\n2017.02.01\t7 6 5\n")
    source = {
        "kind": "text",
        "separator": "\t",
        "item_column": "moves",
        "time_column": "when",
        "time_format": "%Y.%m.%d",
        "row_holds": "history",
    }
    manifest = build(tmp_path, log, source)
    users = pa.ipc.open_file(str(tmp_path / "games_tsv" / "users.arrow")).read_all()
    assert set(users["original_id"].to_pylist()) == {"1:1", "1:2"}
    assert manifest.counts.rows_read == 6
    assert manifest.counts.partial_dates == 1
    log = write(tmp_path / "torn.tsv", "when\tmoves\n2018.01.01\t5 6 7\n2017.02.01\t\n")
    with pytest.raises(ValueError, match=r"torn.tsv line 3: no item id in column 'moves'"):
        build(tmp_path, log, source)
    with pytest.raises(ValueError, match=r"source.user_column is missing"):
        recipe_of(source | {"row_holds": "interaction"})


def test_an_input_may_be_a_folder_of_parts_or_a_pattern(
    tmp_path: Path, content_hash: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "log"
    (folder / "_delta").mkdir(parents=True)
    for hidden in ("_SUCCESS", ".part-0.crc", "_delta/0.csv"):
        write(folder / hidden, "not,a,part")
    for number in range(3):
        lines = [f"{u},{i},{t}" for u, i, t in LOG[20 * number : 20 * number + 20]]
        write(folder / f"part-{number}.csv", "\n".join(["user,item,time", *lines]))
    parts = [folder / f"part-{number}.csv" for number in range(3)]
    monkeypatch.chdir(tmp_path)
    assert expand_inputs([folder]) == expand_inputs([folder / "part-*.csv"]) == parts
    assert expand_inputs([Path("log/*.csv")]) == [Path(f"log/part-{n}.csv") for n in range(3)]
    built = build_dataset(
        recipe_of({"kind": "text"} | NAMED), parts, tmp_path / "out", progress=str
    )
    assert built.content_hash == content_hash
    with pytest.raises(ValueError, match="no file matches"):
        expand_inputs([folder / "*.parquet"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="is a folder without files"):
        expand_inputs([tmp_path / "empty"])


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
    with pytest.raises(ValueError, match=rf"row {len(LOG)}: no date of the years .*9999"):
        build(tmp_path, tmp_path / "log.parquet", {"kind": "parquet"} | NAMED)


@pytest.mark.parametrize("block_bytes", [3, 1 << 20])
@pytest.mark.parametrize(
    "name", ["log.txt", "utf16.txt", *(f"log.txt{suffix}" for suffix in (*PACK, ".zip"))]
)
def test_sequences(tmp_path: Path, content_hash: str, name: str, block_bytes: int) -> None:
    lines = [f"{user}  {' '.join(items)}\t" for user, items in by_user().items()]
    file = write(tmp_path / name, "\n\n".join(lines))
    source = {"kind": "sequences", "first_field_is_user": True}
    assert build(tmp_path, file, source, block_bytes=block_bytes).content_hash == content_hash


def test_sequences_in_an_encoding_that_the_recipe_names(tmp_path: Path) -> None:
    source = {"kind": "sequences", "first_field_is_user": True}
    text = "".join(f"{user} Äpfel {' '.join(items)}\n" for user, items in by_user().items())
    hashes = set()
    for encoding in ("utf-8", "latin-1"):
        file = tmp_path / f"{encoding}.txt"
        file.write_bytes(text.encode(encoding))
        hashes.add(build(tmp_path, file, source | {"encoding": encoding}).content_hash)
    assert len(hashes) == 1


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


def test_order_keys_sort_as_the_numbers_do() -> None:
    numbers = [-1e300, -2.5, -1.0, -1e-300, 0.0, 1e-300, 0.5, 3.0, 1e300]
    keys, readable, _ = parse_times(pa.array([str(n) for n in numbers]), "number")
    assert (keys[1:] > keys[:-1]).all()
    assert readable.tolist() == [abs(n) < 2**53 for n in numbers]
    zeros = order_key(pa.array([0.0, -0.0]).to_numpy())
    assert zeros[0] == zeros[1]


BYTES = [b"a", None, b"\xff", b""]


def test_a_missing_value_is_missing_in_every_column() -> None:
    """Null stays null among bytes, and bytes that are no text are unreadable."""
    values, is_text_N = plain(pa.array(BYTES))
    assert values.to_pylist() == ["a", None, None, ""]
    assert is_text_N.tolist() == [True, True, False, True]
    empty, _ = apply_condition(parse_condition("c is empty"), values)
    assert empty.tolist() == [False, True, True, True]
    _, readable_N = parse_ids(values)
    assert readable_N.tolist() == [True, False, False, False]
    _, readable_N, _ = parse_times(pa.array([1, None, 3]), "number")
    assert readable_N.tolist() == [True, False, True]
    assert parse_ids(pa.array([1.0, 2.5, None, float("nan")]))[1].tolist() == [True] + [False] * 3
    blank = ["a", " a ", "", " ", "\t", "\u00a0", None]
    assert parse_ids(pa.array(blank))[1].tolist() == [True, True] + [False] * 5


@pytest.mark.parametrize("view", [pa.list_view, pa.large_list_view, pa.large_list])
def test_lists_of_every_kind_are_histories(tmp_path: Path, view: Any) -> None:
    lists = pa.array([[1, 2, 3], None, [4, 2, 1, 1], []], view(pa.int64()))
    columns = {"user": pa.array([b"a", b"b", b"c", b"d"]), "item": lists}
    with pa.ipc.new_file(str(tmp_path / "log.arrow"), pa.table(columns).schema) as writer:
        writer.write_table(pa.table(columns))
    source = {"kind": "arrow", "user_column": "user", "item_column": "item"}
    more = {"row_holds": "history", "on_bad_row": "skip"}
    manifest = build(tmp_path, tmp_path / "log.arrow", source | more)
    assert manifest.num_interactions == 7
    assert manifest.counts.bad_rows == {"no item id in column 'item'": 2}


def test_categories_of_times_are_dates(tmp_path: Path) -> None:
    times = pa.array([86_400 * n for n in range(9)]).dictionary_encode()
    columns = {"user": ["a", "b", "c"] * 3, "item": ["x", "y", "z"] * 3, "time": times}
    with pa.ipc.new_file(str(tmp_path / "log.arrow"), pa.table(columns).schema) as writer:
        writer.write_table(pa.table(columns))
    manifest = build(tmp_path, tmp_path / "log.arrow", {"kind": "arrow", "time_unit": "s"} | NAMED)
    assert manifest.profile is not None
    spans = manifest.profile.spans.values()
    assert max(last for _, last in spans) == "1970-01-09T00:00:00Z"


def test_a_pattern_takes_folders_and_leaves_hidden_files(tmp_path: Path) -> None:
    (tmp_path / "2024-01").mkdir()
    for name in ("2024-01/0.csv", "2024-01/_SUCCESS", "2024-02.csv", ".2024-02.csv.crc"):
        write(tmp_path / name, "user,item")
    found = expand_inputs([tmp_path / "*2024-*"])
    assert found == [tmp_path / "2024-01/0.csv", tmp_path / "2024-02.csv"]


def test_typed_columns_of_recbole_are_found(tmp_path: Path, content_hash: str) -> None:
    names = {"user": "user:token", "item": "item:token", "time": "time:float"}
    users, items, times = zip(*LOG, strict=True)
    columns = {names["user"]: users, names["item"]: items, names["time"]: times}
    pq.write_table(
        pa.table({name: list(values) for name, values in columns.items()}), tmp_path / "p"
    )
    assert (
        build(
            tmp_path, (tmp_path / "p").rename(tmp_path / "a.parquet"), {"kind": "parquet"} | NAMED
        ).content_hash
        == content_hash
    )


def test_histories_in_bytes_that_are_no_text_are_bad_rows(tmp_path: Path) -> None:
    items = pa.array([b"x y z", b"\xff y z", None], pa.binary())
    pq.write_table(pa.table({"user": ["a", "b", "c"], "item": items}), tmp_path / "log.parquet")
    source = {"kind": "parquet", "user_column": "user", "item_column": "item"}
    more = {"row_holds": "history", "on_bad_row": "skip"}
    manifest = build(tmp_path, tmp_path / "log.parquet", source | more)
    assert manifest.num_items == 3
    assert sorted(manifest.counts.bad_rows) == [
        "bytes that are not UTF-8 in column 'item'",
        "no item id in column 'item'",
    ]
