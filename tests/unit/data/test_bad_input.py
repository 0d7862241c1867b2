"""Bad input names the file, the line and what was expected, and leaves nothing behind."""

import gzip
import shutil
from datetime import timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from skiprec.data.ingest import build_dataset, make_recipe
from skiprec.data.manifest import Manifest

TEXT = {"kind": "text", "user_column": "user", "item_column": "item", "time_column": "time"}
GOOD = [f"u{n % 3},i{n % 5},{n}" for n in range(30)]


def build(
    file: Path, source: dict[str, Any], *, block_bytes: int = 1 << 20, **overrides: Any
) -> Manifest:
    content = {"name": "t", "window": 4, "source": source, "split": {"kind": "leave_one_out"}}
    recipe = make_recipe(content, overrides, origin="test")
    return build_dataset(
        recipe, [file], file.parent / "out", progress=str, num_buckets=2, block_bytes=block_bytes
    )


def refuse(file: Path, source: dict[str, Any], message: str, **more: Any) -> None:
    before = sorted(file.parent.iterdir())
    with pytest.raises(ValueError, match=message):
        build(file, source, **more)
    assert sorted(file.parent.iterdir()) == before  # no half-built folder, hidden or not


def write(folder: Path, *lines: str, header: str = "user,item,time") -> Path:
    path = folder / "log.csv"
    path.write_text("\n".join([header, *lines]) + "\n")
    return path


def test_good_rows_build(tmp_path: Path) -> None:
    """Control: what the tests below break is fine before they do."""
    manifest = build(write(tmp_path, *GOOD), TEXT)
    assert manifest.counts.rows_read == 30
    assert (manifest.num_users, manifest.num_items) == (3, 5)


@pytest.mark.parametrize("block_bytes", [64, 1 << 20])
@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ("u1,i1,soon", r"log\.csv line 18: unreadable time \(number\) in 'time'; .* 'u1,i1,soon'"),
        ("u1,i1,nan", r"log\.csv line 18: unreadable time"),
        ("u1,i1,9007199254740993", r"log\.csv line 18: unreadable time"),
        ("u1,i1,", r"log\.csv line 18: unreadable time"),
        ("u1,i1", r"log\.csv line 18: wrong number of fields: expected 3, found 2"),
        ("u1,i1,3,4", r"log\.csv line 18: wrong number of fields: expected 3, found 4"),
        (",i1,3", r"log\.csv line 18: no user id in column 'user'"),
        ("u1,,3", r"log\.csv line 18: no item id in column 'item'"),
    ],
)
def test_a_bad_line_is_named_or_skipped(
    tmp_path: Path, bad: str, message: str, block_bytes: int
) -> None:
    lines = [*GOOD[:10], "", *GOOD[10:15], bad, *GOOD[15:], bad]  # a blank line counts as a line
    path = write(tmp_path, *lines)
    refuse(path, TEXT, message, block_bytes=block_bytes)
    manifest = build(path, TEXT, block_bytes=block_bytes, **{"source.on_bad_row": "skip"})
    assert list(manifest.counts.bad_rows.values()) == [2]
    assert manifest.counts.rows_read == 32
    (tmp_path / "good").mkdir()
    clean = build(write(tmp_path / "good", *GOOD), TEXT)
    assert clean.content_hash == manifest.content_hash


def test_skipping_reports_the_first_bad_line(tmp_path: Path) -> None:
    path = write(tmp_path, *GOOD, "u1,i1,soon", "u1", "u2,i2,later")
    content = {"name": "t", "window": 4, "source": TEXT, "split": {"kind": "leave_one_out"}}
    recipe = make_recipe(content, {"source.on_bad_row": "skip"}, origin="test")
    said: list[str] = []
    manifest = build_dataset(recipe, [path], tmp_path / "out", progress=said.append)
    assert manifest.counts.bad_rows == {
        "unreadable time (number) in 'time'": 2,
        "wrong number of fields": 1,
    }
    report = next(line for line in said if line.startswith("skipped interactions in bad rows"))
    assert "log.csv line 32: unreadable time" in report


@pytest.mark.parametrize("block_bytes", [64, 1 << 20])
def test_quotes_protect_line_breaks_and_must_be_closed(tmp_path: Path, block_bytes: int) -> None:
    path = write(tmp_path, *GOOD[:5], 'u1,"i\n1",3', *GOOD[5:], "u1,i1,soon")
    refuse(path, TEXT, r"log\.csv line 34: unreadable time", block_bytes=block_bytes)
    path = write(tmp_path, *GOOD[:5], 'u1,"i1,3', *GOOD[5:])
    refuse(path, TEXT, r"log\.csv line 7: .* is not closed", block_bytes=block_bytes)


@pytest.mark.parametrize("block_bytes", [64, 1 << 20])
def test_a_quote_that_nobody_meant_is_named(tmp_path: Path, block_bytes: int) -> None:
    """It swallows the lines behind it, up to the next quote or to the end of the file."""
    header = "user,item,time,title"
    lines = [f"{line},song" for line in GOOD]

    def check(where: int, *stray: str, message: str) -> None:
        rows = [*lines[:where], *stray, *lines[where:]]
        path = write(tmp_path, *rows, header=header)
        refuse(path, TEXT, message, block_bytes=block_bytes)
        refuse(path, TEXT | {"on_bad_row": "skip"}, message, block_bytes=block_bytes)
        plain = build(path, TEXT | {"quoted": False}, block_bytes=block_bytes)
        assert plain.counts.rows_read == len(rows)
        shutil.rmtree(tmp_path / "out")

    open_quote = 'u1,i1,3,"Weird Al'
    check(9, open_quote, message=r"line 11: .* is not closed before the end .*--no-quotes")
    check(30, open_quote, message=r"line 32: .* is not closed before the end")
    two = ('u1,i1,3,"Weird', *lines[3:6], 'u1,i1,3,"Al"')
    check(4, *two, message=r"line 6: .* has swallowed 4 whole rows; .*--no-quotes")
    check(4, 'u1,i1,3,"Weird', 'u1,i1,3,"Al"', message=r"line 6: .* has swallowed a whole row")
    two = ('u1,i1,3,"Weird, live', *lines[3:6], 'u1,i1,3,Al, "')  # commas at both ends
    path = write(tmp_path, *lines[:4], *two, *lines[4:], header=header)
    refuse(path, TEXT, r"line 6: .* has swallowed 4 whole rows", block_bytes=block_bytes)
    beside = ('u1,i1,3,"one\nsong"', 'u1,i1,3,"Weird', 'u1,i1,3,Al"')  # a good one before
    path = write(tmp_path, *lines[:4], *beside, *lines[4:], header=header)
    refuse(path, TEXT, r"line 8: .* has swallowed a whole row", block_bytes=block_bytes)
    stray = ['u1,i1,3,"Weird, the', 'u1,i1,3,"Al"']  # the comma hides that this is a whole row
    path = write(tmp_path, *lines[:4], *stray, *lines[4:], header=header)
    refuse(path, TEXT, r"line 6: .* closes in the middle of another", block_bytes=block_bytes)
    stray = ['u1,i1,3,"Weird', *lines[3:6], 'u1,i1,3,"Al, D"']  # it leaves too many fields
    path = write(tmp_path, *lines[:4], *stray, *lines[4:], header=header)
    refuse(path, TEXT, r"line 6: .* closes in the middle of another", block_bytes=block_bytes)
    # Control: titles with line ends that nobody would take for rows.
    titles = [
        'u1,i1,3,"one\ntwo, three"',
        'u1,i1,3,"good\nFast, cheap, simple, nice"',
        'u1,i1,3,"say ""four""\n\nfive"',
    ]
    path = write(tmp_path, *lines, *titles, header=header)
    assert build(path, TEXT, block_bytes=1 << 20).counts.rows_read == 33


@pytest.mark.parametrize("block_bytes", [64, 1 << 20])
def test_a_quote_that_nobody_meant_in_the_first_column_is_named(
    tmp_path: Path, block_bytes: int
) -> None:
    header = "title,user,item,time"
    lines = [f"nice,{line}" for line in GOOD]

    def check(lines: list[str], message: str) -> None:
        path = write(tmp_path, *lines, header=header)
        refuse(path, TEXT, message, block_bytes=block_bytes)

    check(
        [*lines[:4], '"5 inch,u1,i1,3', '"nice","u1","i2","4"', *lines[4:]],
        r"line 6: .* has swallowed a whole row; .*--no-quotes",
    )
    check(
        [*lines[:4], '"5 inch,u1,i1,3', *lines[4:9], '",u1,i1,3', *lines[9:]],
        r"line 6: .* has swallowed 6 whole rows; .*--no-quotes",
    )
    # Control: titles on two lines, and one with commas as a row has.
    titles = ['"nice\nand good",u1,i1,3', '"a, b, c, d\ne",u1,i1,3', '"one\n\ntwo",u1,i1,3']
    path = write(tmp_path, *lines, *titles, header=header)
    assert build(path, TEXT, block_bytes=1 << 20).counts.rows_read == 33


def test_a_missing_column_names_the_nearest(tmp_path: Path) -> None:
    path = write(tmp_path, *GOOD, header="userid,item,time")
    refuse(path, TEXT, r"log\.csv line 1: expected a column 'user'.*did you mean 'userid'")
    path = write(tmp_path, "a,b,c,d", header="user,item,time,user")
    refuse(path, TEXT, "found it twice")
    path = write(tmp_path, *GOOD, header="user,item,time")
    refuse(path, TEXT | {"separator": ";"}, r"holds one field: .* with --separator")


def test_column_numbers_without_a_header(tmp_path: Path) -> None:
    source = TEXT | {"user_column": "1", "item_column": "2", "time_column": "4", "header": False}
    refuse(write(tmp_path, *GOOD), source, r"line 1: expected at least 4 fields .* found 3")
    refuse(write(tmp_path, *GOOD), TEXT | {"header": False}, "expected its number, from 1")


def test_empty_files(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    path.write_text("")
    refuse(path, TEXT, r"log\.csv is empty \(0 bytes\)")
    path.write_text("\n\n")
    refuse(path, TEXT, r"log\.csv is empty; expected a header with 'user', 'item', 'time'")
    path.write_text("user,item,time\n")
    refuse(path, TEXT, "has a header and no rows")
    packed = tmp_path / "log.csv.gz"
    packed.write_bytes(gzip.compress(b""))
    refuse(packed, TEXT, r"log\.csv\.gz is empty")
    path.unlink()
    refuse(path, TEXT, "no such file")


def test_an_empty_part_among_others_is_counted(tmp_path: Path) -> None:
    parts = [write(tmp_path, *GOOD).rename(tmp_path / "0.csv"), write(tmp_path), tmp_path / "2.csv"]
    parts[2].touch()
    content = {"name": "t", "window": 4, "source": TEXT, "split": {"kind": "leave_one_out"}}
    recipe = make_recipe(content, {}, origin="test")
    manifest = build_dataset(recipe, parts, tmp_path / "out", progress=str)
    assert manifest.counts.rows_read == 30
    assert manifest.counts.empty_files == 2
    assert "2 empty files" in manifest.describe()
    with pytest.raises(ValueError, match="no history is left of 0 interactions"):
        build_dataset(recipe, parts[1:], tmp_path / "none", progress=str)


def test_users_with_one_item(tmp_path: Path) -> None:
    path = write(tmp_path, *[f"u{n},i1,1" for n in range(5)])
    message = r"log\.csv line 2 \(user 'u0' with 1 item\): no history is left.* at least 3 items"
    refuse(path, TEXT, message)
    path = write(tmp_path, *GOOD, "lonely,i1,1")
    assert build(path, TEXT).counts.short_histories == 1  # among others it is left out and counted


def test_a_bad_line_behind_a_long_review(tmp_path: Path) -> None:
    review = "good, " * 40_000  # longer than the fields that Python's csv reads by default
    lines = [f"{line},ok" for line in GOOD]
    lines[3] = f'u1,i1,3,"{review}"'
    lines[20] = "u1,i1,soon,ok"
    path = write(tmp_path, *lines, header="user,item,time,review")
    refuse(path, TEXT, r"log\.csv line 22: unreadable time .*found 'u1,i1,soon,ok'")


def test_times_beyond_2_to_53_come_with_a_hint(tmp_path: Path) -> None:
    path = write(
        tmp_path, *[f"u{n % 3},i{n % 5},{1_700_000_000_000_000_000 + n}" for n in range(9)]
    )
    refuse(path, TEXT, "16 digits or more: give --time-format integer")
    assert build(path, TEXT | {"time_format": "integer"}).counts.rows_read == 9


def test_a_time_beyond_all_dates_is_a_bad_row(tmp_path: Path) -> None:
    """One that is wrong, or all of them, because their unit is another one."""
    source = TEXT | {"time_unit": "s"}
    message = r"line 12: time in 'time' that is no date .* 's'; expected another unit: --time-unit"
    path = write(tmp_path, *GOOD[:10], "u1,i1,999999999999999", *GOOD[10:])
    refuse(path, source, message)
    skipping = build(path, source | {"on_bad_row": "skip"})
    assert list(skipping.counts.bad_rows.values()) == [1]
    shutil.rmtree(tmp_path / "out")
    dated = [f"u{n % 3},i{n % 5},2024-05-{n + 1:02}" for n in range(30)]
    path = write(tmp_path, *dated[:10], "u1,i1,0000-00-00", *dated[10:])
    refuse(path, TEXT | {"time_format": "iso8601"}, "line 12: unreadable time")


def test_dates_without_their_format_come_with_a_hint(tmp_path: Path) -> None:
    path = write(tmp_path, *(f"u{n % 3},i{n % 5},2024-05-{n + 1:02}T10:00" for n in range(30)))
    refuse(path, TEXT, r"line 2: unreadable time .* these look like dates: give --time-format iso")


def test_columns_of_types_that_hold_no_id(tmp_path: Path) -> None:
    path = tmp_path / "log.parquet"
    columns = {
        "user": [1] * 9,
        "item": [[1, 2]] * 9,
        "time": [timedelta(hours=n) for n in range(9)],
    }
    pq.write_table(pa.table(columns), path)
    source = TEXT | {"kind": "parquet"}
    message = r"log\.parquet: column 'item' holds list<.*int64>; .*give --row-holds history"
    refuse(path, source, message)
    assert build(path, source | {"row_holds": "history"}).counts.rows_read == 18
    shutil.rmtree(tmp_path / "out")
    keep = {"item_column": "user", "keep": ["item == 1"]}
    refuse(path, source | keep, "column 'item' holds list")
    refuse(path, TEXT, "log.parquet holds Parquet, and recipe t reads 'text'")


def test_conditions_that_leave_nothing(tmp_path: Path) -> None:
    refuse(
        write(tmp_path, *GOOD), TEXT | {"keep": ["time > 99"]}, "conditions dropped 30 interactions"
    )


def test_torn_and_false_gzip(tmp_path: Path) -> None:
    packed = gzip.compress("\n".join(["user,item,time", *GOOD * 2000]).encode())
    path = tmp_path / "log.csv.gz"
    path.write_bytes(packed[: len(packed) // 2])
    refuse(path, TEXT, r"log\.csv\.gz cannot be read to its end .*expected a whole file")
    path.write_bytes(packed[:5])
    refuse(path, TEXT, r"log\.csv\.gz cannot be read to its end")


def test_text_that_is_not_utf8(tmp_path: Path) -> None:
    path = write(tmp_path, *GOOD)
    path.write_bytes(path.read_bytes() + b"u1,caf\xe9,7\n")
    refuse(path, TEXT, r"log\.csv line 32: expected UTF-8 text.*--encoding latin-1")
    refuse(path, TEXT | {"encoding": "ascii"}, r"log\.csv line 32: expected text in ascii")
    refuse(path, TEXT | {"encoding": "latin-99"}, "is no encoding that Python knows")
    build(path, TEXT | {"encoding": "latin-1"})
    items = pa.ipc.open_file(str(tmp_path / "out" / "items.arrow")).read_all()
    assert "café" in items["original_id"].to_pylist()


def test_existing_output_is_refused_and_kept(tmp_path: Path) -> None:
    path = write(tmp_path, *GOOD)
    first = build(path, TEXT)
    refuse(path, TEXT, "already exists; expected a new folder")
    assert (tmp_path / "out" / "manifest.json").exists()
    assert first.num_users == 3


def test_the_same_file_twice(tmp_path: Path) -> None:
    path = write(tmp_path, *GOOD)
    content = {"name": "t", "window": 4, "source": TEXT, "split": {"kind": "by_user"}}
    recipe = make_recipe(content, {}, origin="test")
    with pytest.raises(ValueError, match="given twice"):
        build_dataset(recipe, [path, path], tmp_path / "out", progress=str)
    with pytest.raises(ValueError, match="draws the test rows itself"):
        build_dataset(recipe, [path], tmp_path / "out", test_inputs=[path], progress=str)
    given = make_recipe(content, {"split": {"kind": "given"}}, origin="test")
    with pytest.raises(ValueError, match="needs train files and test files, found only train"):
        build_dataset(given, [path], tmp_path / "out", progress=str)


def test_an_interrupt_leaves_nothing(tmp_path: Path) -> None:
    path = write(tmp_path, *GOOD)
    content = {"name": "t", "window": 4, "source": TEXT, "split": {"kind": "by_user"}}

    def interrupt(line: str) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build_dataset(
            make_recipe(content, {}, origin="t"), [path], tmp_path / "o", progress=interrupt
        )
    assert list(tmp_path.iterdir()) == [path]


def test_parquet(tmp_path: Path) -> None:
    source = TEXT | {"kind": "parquet"}
    path = tmp_path / "log.parquet"
    users = pa.array([float(n % 3) for n in range(29)] + [2.5])
    table = pa.table({"user": users, "item": list(range(30)), "time": list(range(30))})
    pq.write_table(table, path)
    refuse(path, source, r"log\.parquet row 30: no user id in column 'user' of double, .*2\.5")
    refuse(path, source | {"item_column": "itm"}, "expected a column 'itm'.*did you mean 'item'")
    manifest = build(path, source | {"on_bad_row": "skip"})
    assert list(manifest.counts.bad_rows.values()) == [1]
    (tmp_path / "torn").mkdir()
    torn = tmp_path / "torn" / "log.parquet"
    torn.write_bytes(path.read_bytes()[:-100])
    refuse(torn, source, r"log\.parquet: expected a whole file of parquet")
    pq.write_table(table.slice(0, 0), torn)
    refuse(torn, source, "has no rows")


def test_sequences(tmp_path: Path) -> None:
    path = tmp_path / "log.txt"
    source = {"kind": "sequences", "first_field_is_user": True}
    path.write_text("a 1 2 3\n\nb 1 2 3 4\nc\nd 1 2 3\n")
    refuse(path, source, r"log\.txt line 4: user 'c' without items")
    assert build(path, source | {"on_bad_row": "skip"}).counts.bad_rows == {"user without items": 1}
    (tmp_path / "b").mkdir()
    path = tmp_path / "b" / "log.txt"
    path.write_text("\n \n")
    refuse(path, source, "has no items")
    path.write_text("\n7\n8\n")
    lines = {"kind": "sequences", "first_field_is_user": False}
    refuse(path, lines, r"log\.txt line 2 \(user '1:2' with 1 item\): no history is left")
    path.write_bytes(b"a 1 2 3\nb 1 2 caf\xe9\n")
    refuse(path, source, r"log\.txt line 2: expected UTF-8 text")


def test_a_split_with_nothing_to_train_on(tmp_path: Path) -> None:
    path = write(tmp_path, *GOOD)
    split = {"kind": "by_user", "validation_frac": 0.0, "test_frac": 0.999}
    refuse(path, TEXT, "split 'train' of t has no rows: 3 users gave", split=split)


def test_a_row_that_fits_in_no_block_is_named(tmp_path: Path) -> None:
    file = write(tmp_path, *GOOD[:10], f"u1,{'i' * 300},3", *GOOD[10:])
    refuse(file, TEXT, r"log\.csv .* line 12 holds a row of 303 characters", block_bytes=64)
    assert build(file, TEXT).num_items == 6
