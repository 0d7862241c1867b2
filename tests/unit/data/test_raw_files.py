"""What the opener of input files reads, joins and refuses, whatever the files hold."""

import bz2
import codecs
import io
import lzma
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from skiprec.data.ingest import build_dataset, make_recipe
from skiprec.data.ingest.raw_files import content_of_first, damage_named, expand_inputs
from skiprec.data.ingest.text_stream import open_text
from skiprec.data.manifest import Manifest

COLUMNS = {"user_column": "user", "item_column": "item"}


def text_of(file: Path, read_bytes: int, encoding: str = "utf-8") -> bytes:
    with damage_named(file), open_text(file, encoding) as stream:
        return b"".join(iter(lambda: stream.read(read_bytes), b""))


def build(file: Path, source: dict[str, Any], *more: Path, block_bytes: int = 1 << 20) -> Manifest:
    content = {"name": "t", "window": 4, "source": source, "split": {"kind": "by_window"}}
    recipe = make_recipe(content, {}, origin="test")
    output = Path(tempfile.mkdtemp(dir=file.parent)) / "out"
    sizes = {"num_buckets": 2, "block_bytes": block_bytes}
    return build_dataset(recipe, [file, *more], output, progress=str, **sizes)


@pytest.mark.parametrize(
    ("pack", "padding"), [(bz2.compress, b""), (lzma.compress, b"\0" * 8)], ids=["bz2", "xz"]
)
def test_packed_streams_one_behind_the_other_are_read_to_the_last(
    tmp_path: Path, pack: Callable[[bytes], bytes], padding: bytes
) -> None:
    parts = [b"a,1\n" * 50_000, b"", b"b,2\n" * 10]
    file = tmp_path / "log"
    file.write_bytes(padding.join(map(pack, parts)) + padding)
    assert text_of(file, 1000) == b"".join(parts)
    whole = file.read_bytes()
    last = len(pack(parts[-1])) + len(padding)
    damaged = bytearray(whole)
    damaged[-last : -last + 4] = b"oops"
    for wrong in (bytes(damaged), whole[: -last // 2], whole + b"something else"):
        file.write_bytes(wrong)
        with pytest.raises(ValueError, match="log cannot be read to its end"):
            text_of(file, 1000)


@pytest.mark.parametrize("read_bytes", [1, 2, 3, 5, 1000])
@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32"])
def test_marks_inside_of_a_joined_file_are_no_text(
    tmp_path: Path, read_bytes: int, encoding: str
) -> None:
    parts = ["one é\n", "two\r\n", "\n", "three\rfour\n"]
    file = tmp_path / "log"
    file.write_bytes(b"".join(part.encode(encoding) for part in parts))
    assert text_of(file, read_bytes).decode() == "one é\ntwo\n\nthree\nfour\n"
    # Control: the same sign in the middle of a line is text.
    file.write_bytes("one\ufefftwo\n".encode(encoding))
    assert text_of(file, read_bytes).decode() == "one\ufefftwo\n"
    file.write_bytes(b"end\n" + codecs.BOM_UTF8[:2])
    assert text_of(file, read_bytes) == file.read_bytes()


def test_a_folder_and_a_pattern_leave_out_the_same_hidden_files(tmp_path: Path) -> None:
    for name in ("day=1/a.csv", "_temporary/0/a.csv", ".ipynb_checkpoints/a.csv", "_SUCCESS"):
        (tmp_path / "log" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "log" / name).write_text("user,item")
    log = tmp_path / "log"
    expected = [log / "day=1/a.csv"]
    assert expand_inputs([log]) == expand_inputs([log / "**/*.csv"]) == expected
    assert expand_inputs([log / "*/*.csv"]) == expected
    # A hidden folder that is named is meant.
    assert expand_inputs([log / "_temporary/*/*.csv"]) == [log / "_temporary/0/a.csv"]


def test_the_first_part_with_content_tells_the_kind(tmp_path: Path) -> None:
    empty, packed, filled = tmp_path / "0", tmp_path / "1", tmp_path / "2"
    empty.write_bytes(b"")
    packed.write_bytes(bz2.compress(b""))
    filled.write_text('{"user": "a", "item": "b"}\n')
    assert content_of_first([empty, packed, filled]) == "jsonl"
    assert content_of_first([empty]) == "text"
    with pytest.raises(ValueError, match="no such file"):
        content_of_first([tmp_path / "3"])


def test_json_lines_beside_csv_are_refused_by_their_kind(tmp_path: Path) -> None:
    text, other = tmp_path / "a.csv", tmp_path / "b"
    text.write_text("user,item\n" + "a,b\n" * 5)
    other.write_text('\n{"user": "a", "item": "b"}\n')
    with pytest.raises(ValueError, match="b holds JSON lines, and recipe t reads 'text'"):
        build(text, {"kind": "text"} | COLUMNS, other)
    # Control: a header in braces is text.
    other.write_text('{"user",item\n' + "a,b\n" * 5)
    assert content_of_first([other]) == "jsonl"
    more = {"quoted": False, "user_column": '{"user"'}
    assert build(other, {"kind": "text"} | COLUMNS | more).counts.rows_read == 5


def arrow_stream(size: int, **more: list[str]) -> bytes:
    table = pa.table({"user": ["a"] * size, "item": [f"i{n % 7}" for n in range(size)], **more})
    sink = io.BytesIO()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        for batch in table.to_batches(max_chunksize=10):
            writer.write_batch(batch)
    return sink.getvalue()


def test_arrow_streams_one_behind_the_other_are_read_and_a_cut_one_is_refused(
    tmp_path: Path,
) -> None:
    file, source = tmp_path / "log.arrow", {"kind": "arrow"} | COLUMNS
    file.write_bytes(arrow_stream(40) + arrow_stream(25))
    assert build(file, source).counts.rows_read == 65
    one = arrow_stream(40)
    for wrong, message in (
        (one[:-8], "has no end marker"),  # as of a writer that was killed between two batches
        (one + arrow_stream(9, more=["x"] * 9), "expected the columns of the first one"),
        (one + b"something else", "expected a whole file of arrow"),
    ):
        file.write_bytes(wrong)
        with pytest.raises(ValueError, match=message):
            build(file, source)


@pytest.mark.parametrize(
    ("kind", "bits"), [(pa.float16(), 11), (pa.float32(), 24), (pa.float64(), 53)]
)
def test_ids_that_a_column_of_fractions_cannot_tell_apart_are_refused(
    tmp_path: Path, kind: pa.DataType, bits: int
) -> None:
    file, source = tmp_path / "log.parquet", {"kind": "parquet"} | COLUMNS
    users = np.array([2.0**bits - 1, 2.0**bits - 2] * 6).astype(kind.to_pandas_dtype())
    items = pa.array([f"i{n % 5}" for n in range(12)])
    pq.write_table(pa.table({"user": pa.array(users, kind), "item": items}), file)
    assert build(file, source).num_users == 2
    users[3] = 2.0**bits
    pq.write_table(pa.table({"user": pa.array(users, kind), "item": items}), file)
    with pytest.raises(ValueError, match="row 4: no user id in column 'user'"):
        build(file, source)


@pytest.mark.parametrize("read_bytes", [1, 2, 3, 7, 1000])
def test_a_long_separator_leaves_its_character_to_the_fields(
    tmp_path: Path, read_bytes: int
) -> None:
    file = tmp_path / "log"
    file.write_text("1::Star Wars: Episode IV::10:30\n:2::a:::b:\n")
    with open_text(file, separator="::") as stream:
        text = b"".join(iter(lambda: stream.read(read_bytes), b""))
    assert text == b"1\x1fStar Wars: Episode IV\x1f10:30\n:2\x1fa\x1f:b:\n"
    file.write_text("a::b\x1f\n")
    with open_text(file, separator="::") as stream, pytest.raises(ValueError, match=r"U\+001F"):
        stream.read()


@pytest.mark.parametrize("block_bytes", [64, 1 << 20])
def test_rows_with_a_long_separator(tmp_path: Path, block_bytes: int) -> None:
    file = tmp_path / "log.dat"
    rows = [f"u{n % 3}::i:{n % 5}::2024-05-06 10:30:{n:02}" for n in range(30)]
    source = {
        "kind": "text", "user_column": "1", "item_column": "2", "time_column": "3",
        "header": False, "separator": "::", "time_format": "%Y-%m-%d %H:%M:%S",
    }  # fmt: skip
    file.write_text("\n".join(rows) + "\n")
    assert build(file, source, block_bytes=block_bytes).num_items == 5
    file.write_text("\n".join([*rows[:4], "u1:i1:2", *rows[4:]]) + "\n")
    with pytest.raises(ValueError, match="line 5: wrong number of fields: expected 3, found 1"):
        build(file, source, block_bytes=block_bytes)
    skipping = build(file, source | {"on_bad_row": "skip"}, block_bytes=block_bytes)
    assert list(skipping.counts.bad_rows.values()) == [1]


def test_what_is_no_text_is_named(tmp_path: Path) -> None:
    file, source = tmp_path / "log", {"kind": "text"} | COLUMNS
    rows = "user,item\n" + "a,b\n" * 5
    file.write_bytes(rows.encode("utf-16-le"))
    with pytest.raises(ValueError, match=r"zero bytes, .* give --encoding utf-16"):
        build(file, source)
    assert build(file, source | {"encoding": "utf-16"}).counts.rows_read == 5
    file.write_text('[\n{"user": "a", "item": "b"}\n]\n')
    with pytest.raises(ValueError, match="holds a JSON array; expected JSON lines"):
        build(file, source)


def test_a_message_does_not_repeat_a_long_row(tmp_path: Path) -> None:
    file = tmp_path / "log"
    file.write_text('{"user": "' + "a" * 100_000 + '", "item": ""}\n')
    with pytest.raises(ValueError, match="line 1: no item id") as refused:
        build(file, {"kind": "jsonl"} | COLUMNS)
    assert len(str(refused.value)) < 1_000
    file.write_text(",".join(f"column{n}" for n in range(10_000)) + "\n")
    with pytest.raises(ValueError, match="expected a column 'user'") as refused:
        build(file, {"kind": "text"} | COLUMNS)
    assert len(str(refused.value)) < 1_000


@pytest.mark.parametrize("text", ["['i1', 'i2']", "[1, 2]", " [i1 i2] "])
def test_a_printed_list_is_no_history(tmp_path: Path, text: str) -> None:
    file = tmp_path / "log"
    source = {"kind": "text", "row_holds": "history", "separator": "\t"} | COLUMNS
    file.write_text(f"user\titem\na\ti1 i2 i3\nb\t{text}\n")
    with pytest.raises(ValueError, match="line 3: a printed list in column 'item'"):
        build(file, source)
    file.write_text("user\titem\na\ti1 i2 i3\nb\t[i1] [i2] [i3]\n")  # control: ids in brackets
    assert build(file, source).num_items == 6
