"""Shards are read as they were written, without copies, and a wrong folder says what is wrong."""

import json
import shutil
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skiprec.data import shards as shards_module
from skiprec.data.ingest import Recipe, build_dataset, is_built, make_recipe
from skiprec.data.manifest import read_manifest, verify_files
from skiprec.data.shards import ShardSet, ShardWriter, TableWriter


def recipe(**source: int) -> Recipe:
    content = {
        "name": "small",
        "window": 8,
        "source": {"kind": "synthetic", "num_users": 60} | source,
        "split": {"kind": "leave_one_out"},
    }
    return make_recipe(content, {}, origin="test")


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shards") / "small"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shards_module, "ROWS_PER_FILE", 100)  # several files
        build_dataset(recipe(), [], folder, progress=str, num_buckets=2)
    return folder


@pytest.fixture
def copy(built: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(built, tmp_path / "copy"))


def test_take_slice_and_arrow_agree(built: Path) -> None:
    shards = ShardSet.open(built, "train")
    files = [built / file.name for file in shards.manifest.splits["train"].files]
    assert len(files) > 1
    table = pa.concat_tables([pa.ipc.open_file(str(f)).read_all() for f in files])
    items_RW = np.array(table["items"].to_pylist())
    rng = np.random.default_rng(0)
    for row_R in (rng.integers(0, shards.num_rows, 500), np.array([99, 100, 101, 0]), np.array([])):
        rows = shards.take(row_R)
        assert (rows.items_RW == items_RW[row_R.astype(int)]).all()
        assert (rows.user_R == table["user"].to_numpy()[row_R.astype(int)]).all()
        assert (rows.row_R == row_R).all()
        assert rows.items_RW.dtype == rows.user_R.dtype == np.int32
        assert rows.items_RW.flags.writeable
    for start, stop in ((0, shards.num_rows), (98, 205), (100, 100)):
        rows = shards.slice(start, stop)
        assert (rows.items_RW == items_RW[start:stop]).all()
        assert (rows.row_R == np.arange(start, stop)).all()


def test_files_are_mapped_not_read(built: Path) -> None:
    before = pa.total_allocated_bytes()
    shards = ShardSet.open(built, "train")
    assert pa.total_allocated_bytes() - before < 100_000
    for items_RW in (columns["items_RW"] for columns in shards._files):
        assert not items_RW.flags.owndata
        assert not items_RW.flags.writeable
        mapped = [line.split()[0] for line in Path("/proc/self/maps").read_text().splitlines()]
        address = items_RW.ctypes.data
        low, high = next(
            (int(a, 16), int(b, 16))
            for a, b in (span.split("-") for span in mapped)
            if int(a, 16) <= address < int(b, 16)
        )
        assert low <= address < high


def test_rows_outside_the_split_are_refused(built: Path) -> None:
    shards = ShardSet.open(built, "test")
    with pytest.raises(ValueError, match=r"split 'test', 0\.\.59; got rows 0\.\.60"):
        shards.take(np.array([0, 60]))
    with pytest.raises(ValueError, match=r"split 'test', 0\.\.59; got rows -1\.\.-1"):
        shards.take(np.array([-1]))
    with pytest.raises(ValueError, match=r"of the 60 rows of split 'test'; got rows 0\.\.61"):
        shards.slice(0, 61)


def test_tables_fit_the_rows(built: Path) -> None:
    manifest = read_manifest(built)
    items = pa.ipc.open_file(str(built / "items.arrow")).read_all()
    users = pa.ipc.open_file(str(built / "users.arrow")).read_all()
    assert items["item"].to_pylist() == list(range(1, manifest.num_items + 1))
    count = items["count"].to_numpy()
    assert (np.diff(count) <= 0).all()  # ids by descending frequency
    assert count.sum() == manifest.num_interactions == sum(users["num_interactions"].to_pylist())
    train = ShardSet.open(built, "train").slice(0, manifest.splits["train"].rows)
    occurrences = np.bincount(train.items_RW.ravel(), minlength=manifest.num_items + 1)
    assert (occurrences[1:] == items["train_count"].to_numpy()).all()
    assert set(users["kind"].to_pylist()) == {"easy", "hard"}


def test_verify_files_finds_one_changed_byte(copy: Path) -> None:
    manifest = read_manifest(copy)
    verify_files(copy, manifest)
    path = copy / manifest.splits["train"].files[0].name
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    ShardSet.open(copy, "train")  # opening checks sizes alone
    with pytest.raises(ValueError, match=rf"{path.name} has sha256 .* the manifest says"):
        verify_files(copy, manifest)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: (f / "manifest.json").unlink(), "is not a dataset: it has no manifest.json"),
        (lambda f: (f / "manifest.json").write_text("{"), "is not a manifest"),
        (lambda f: (f / "train-00001.arrow").unlink(), "train-00001.arrow is missing"),
        (lambda f: (f / "train-00001.arrow").write_bytes(b"x"), "has 1 bytes, the manifest says"),
        (lambda f: edit(f, schema_version=99), "has schema version 99, this version reads 1"),
        (lambda f: edit(f, surprise=1), "does not follow schema version 1"),
        (lambda f: shutil.rmtree(f), "no such folder"),
    ],
)
def test_a_damaged_folder_says_what_is_wrong(copy: Path, damage: object, message: str) -> None:
    damage(copy)  # type: ignore[operator]
    with pytest.raises(ValueError, match=message):
        ShardSet.open(copy, "train")


def edit(folder: Path, **changes: object) -> None:
    path = folder / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_an_unknown_split_names_the_ones_there(built: Path) -> None:
    with pytest.raises(ValueError, match="no split 'dev'; it has train, validation, test"):
        ShardSet.open(built, "dev")


def test_is_built_tells_same_other_and_nothing(built: Path, tmp_path: Path) -> None:
    assert is_built(built, recipe())
    assert not is_built(tmp_path / "nothing", recipe())
    with pytest.raises(ValueError, match="expected 'small' of recipe"):
        is_built(built, recipe(seed=1))
    (tmp_path / "half").mkdir()
    with pytest.raises(ValueError, match="is not a dataset"):
        is_built(tmp_path / "half", recipe())


def test_content_hash_is_over_the_data_alone(built: Path, tmp_path: Path) -> None:
    """Equal for the same data in another place, different when one setting changes the data."""
    manifest = read_manifest(built)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shards_module, "ROWS_PER_FILE", 100)
        again = build_dataset(recipe(), [], tmp_path / "again", progress=str, num_buckets=5)
        other = build_dataset(recipe(seed=1), [], tmp_path / "other", progress=str)
    assert again.content_hash == manifest.content_hash
    assert again.model_copy(update={"name": "x"}).content_hash == manifest.content_hash
    assert other.content_hash != manifest.content_hash


@settings(max_examples=10, deadline=None)
@given(st.lists(st.integers(0, 25), max_size=8))
def test_files_do_not_depend_on_how_rows_were_appended(
    tmp_path_factory: pytest.TempPathFactory, pieces: list[int]
) -> None:
    total = sum(pieces)
    items_RW = np.arange(total * 3, dtype=np.int32).reshape(total, 3)
    index_R = np.arange(total, dtype=np.int32)
    folder = tmp_path_factory.mktemp("append")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shards_module, "ROWS_PER_FILE", 10)
        at_once, in_pieces = (ShardWriter(folder, name, 3) for name in ("once", "pieces"))
        at_once.append(index_R, index_R, items_RW)
        edges = np.cumsum([0, *pieces])
        for start, stop in pairwise(edges):
            in_pieces.append(index_R[start:stop], index_R[start:stop], items_RW[start:stop])
        first, second = at_once.close(), in_pieces.close()
    assert [file.rows for file in first.files] == [10] * (total // 10) + [total % 10] * (
        total % 10 > 0
    )
    assert [file.sha256 for file in first.files] == [file.sha256 for file in second.files]


def test_data_sha_sees_where_a_text_ends(tmp_path: Path) -> None:
    schema = pa.schema([pa.field("text", pa.string(), nullable=False)])
    digests = set()
    for number, texts in enumerate((["ab", "c"], ["a", "bc"], ["abc"])):
        table = TableWriter(tmp_path / f"{number}.arrow", schema)
        table.append(pa.record_batch([pa.array(texts)], schema=schema))
        digests.add(table.close().data_sha256)
    assert len(digests) == 3
