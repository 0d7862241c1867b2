"""GroupLens' three layouts out of a zip, and what a wrong archive says."""

import zipfile
from pathlib import Path

import pytest

from skiprec.data.ingest import build_movielens, make_recipe
from skiprec.data.ingest.movielens import EDITIONS
from skiprec.data.ingest.recipe import Recipe
from skiprec.data.manifest import Manifest

RATINGS = [(n % 6 + 1, n * 7 % 11 + 1, 4, 1000 - n // 2) for n in range(90)]
README = (
    "It contains 90 ratings and 3 tag applications across 11 movies.\n"
    "This dataset was generated on September 26, 2018.\n"
)
LAYOUTS = {
    "ml-latest": ("ml-latest/ratings.csv", ",", "userId,movieId,rating,timestamp\n", "README.txt"),
    "ml-20m": ("ml-20m/ratings.csv", ",", "userId,movieId,rating,timestamp\n", "README.txt"),
    "ml-1m": ("ml-1m/ratings.dat", "::", "", "README"),
    "ml-100k": ("ml-100k/u.data", "\t", "", "README"),
}


def archive(folder: Path, edition: str, readme: str = README) -> Path:
    member, separator, header, readme_name = LAYOUTS[edition]
    path = folder / f"{edition}.zip"
    lines = "".join(separator.join(map(str, row)) + "\n" for row in RATINGS)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as zip_file:
        zip_file.mkdir(edition)
        zip_file.writestr(f"{edition}/{readme_name}", readme)
        zip_file.writestr(f"{edition}/movies.csv", "movieId,title\n")
        info = zipfile.ZipInfo(member, (2018, 9, 26, 1, 2, 4))
        info.compress_type = zipfile.ZIP_DEFLATED
        zip_file.writestr(info, header + lines)
    return path


def recipe(edition: str) -> Recipe:
    content = {
        "name": "movies",
        "window": 5,
        "source": EDITIONS[edition].source.model_dump(),
        "split": {"kind": "by_user"},
    }
    return make_recipe(content, {}, origin="test")


def build(path: Path, edition: str) -> Manifest:
    output = path.parent / f"{edition}-out"
    return build_movielens(edition, path, recipe(edition), output, progress=str)


@pytest.fixture(scope="module")
def content_hash(tmp_path_factory: pytest.TempPathFactory) -> str:
    return build(archive(tmp_path_factory.mktemp("latest"), "ml-latest"), "ml-latest").content_hash


@pytest.mark.parametrize("edition", EDITIONS)
def test_every_edition_gives_the_same_rows(tmp_path: Path, edition: str, content_hash: str) -> None:
    built = build(archive(tmp_path, edition), edition)
    assert built.content_hash == content_hash
    assert built.counts.rows_read == 90
    assert built.edition["edition"] == edition
    assert built.edition["generated_on"] == "September 26, 2018"
    assert built.edition["ratings_dated"] == "2018-09-26"
    assert built.edition["stated_ratings"] == "90"
    assert len(built.edition["archive_md5"]) == 32
    assert built.inputs[0].name == f"{edition}.zip/{LAYOUTS[edition][0]}"


def test_too_few_ratings_are_noticed(tmp_path: Path) -> None:
    path = archive(tmp_path, "ml-1m", "These files contain 1,000,209 anonymous ratings")
    with pytest.raises(ValueError, match=r"ratings\.dat has 90 rows, expected the 1,000,209"):
        build(path, "ml-1m")
    assert sorted(tmp_path.iterdir()) == [path]


def test_torn_archives(tmp_path: Path) -> None:
    path = archive(tmp_path, "ml-latest")
    whole = path.read_bytes()
    path.write_bytes(whole[:-30])
    with pytest.raises(ValueError, match=r"ml-latest\.zip: expected a whole zip archive"):
        build(path, "ml-latest")
    broken = bytearray(whole)
    start = whole.index(b"ml-latest/ratings.csv") + 60  # in the middle of the packed ratings
    broken[start : start + 20] = b"x" * 20
    path.write_bytes(broken)
    with pytest.raises(ValueError, match=r"ratings\.csv"):
        build(path, "ml-latest")
    assert sorted(tmp_path.iterdir()) == [path]


def test_members_that_point_outside_are_refused(tmp_path: Path) -> None:
    for name in ("../evil/ratings.csv", "/etc/ratings.csv", "a\\..\\..\\ratings.csv"):
        path = tmp_path / "bad.zip"
        with zipfile.ZipFile(path, "w") as zip_file:
            zip_file.writestr(name, "userId,movieId,rating,timestamp\n1,1,1,1\n")
        with pytest.raises(ValueError, match="points outside the archive"):
            build(path, "ml-latest")


def test_the_wrong_edition(tmp_path: Path) -> None:
    path = archive(tmp_path, "ml-1m")
    with pytest.raises(
        ValueError, match=r"expected one ratings\.csv, found 0 among .*ratings\.dat"
    ):
        build(path, "ml-latest")
    with pytest.raises(ValueError, match="but ml-1m is laid out as"):
        build_movielens("ml-1m", path, recipe("ml-latest"), tmp_path / "o", progress=str)
    with pytest.raises(ValueError, match="expected a whole zip archive"):
        build(tmp_path / "nothing.zip", "ml-1m")
