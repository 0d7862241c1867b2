"""The MovieLens archives of GroupLens: the ratings file of each edition and its layout."""

import re
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from zipfile import BadZipFile, ZipFile, ZipInfo

from skiprec.data.ingest.download import file_md5
from skiprec.data.ingest.pipeline import Progress, build_dataset
from skiprec.data.ingest.raw_files import ZipMember
from skiprec.data.ingest.recipe import Recipe, TextSource
from skiprec.data.manifest import Manifest

BASE_URL = "https://files.grouplens.org/datasets/movielens"


@dataclass(frozen=True)
class Edition:
    """The name of an edition's ratings file, and its layout."""

    ratings: str
    source: TextSource


_README_NAMES = ("README.txt", "README", "README.md")

_CSV = TextSource(user_column="userId", item_column="movieId", time_column="timestamp")
_DAT = TextSource(
    user_column="1",
    item_column="2",
    time_column="4",
    separator="::",
    header=False,
    quoted=False,
)
_TAB = _DAT.model_copy(update={"separator": "\t"})

EDITIONS = {
    "ml-latest": Edition("ratings.csv", _CSV),
    "ml-20m": Edition("ratings.csv", _CSV),
    "ml-1m": Edition("ratings.dat", _DAT),
    "ml-100k": Edition("u.data", _TAB),
}


def build_movielens(
    edition: str, archive: Path, recipe: Recipe, output: Path, *, progress: Progress
) -> Manifest:
    """Builds a dataset from the ratings in an archive and returns its manifest.

    `Manifest.edition` records the state of the edition, which changes over the years.

    Raises:
        ValueError: the recipe's source is not the layout of the edition, the archive is damaged, or
            it has another number of ratings than its README states.
    """
    layout = EDITIONS[edition]
    if recipe.source != layout.source:
        raise ValueError(
            f"recipe {recipe.name} reads {recipe.source}, but {edition} is laid out as "
            f"{layout.source}; use a recipe with that source"
        )
    member, facts = inspect_archive(archive, layout.ratings)
    stated = facts.get("stated_ratings")
    facts = {"edition": edition, **facts}
    return build_dataset(
        recipe,
        [ZipMember(archive, member)],
        output,
        progress=progress,
        edition=facts,
        expected_rows=None if stated is None else int(stated),
    )


def inspect_archive(archive: Path, ratings: str) -> tuple[str, dict[str, str]]:
    """The archive's member with the ratings, and facts about the state of the edition."""
    try:
        with ZipFile(archive) as zip_file:
            members = [info for info in zip_file.infolist() if not info.is_dir()]
            for info in members:
                _refuse_unsafe(archive, info)
            matches = [m for m in members if PurePosixPath(m.filename).name == ratings]
            if len(matches) != 1:
                raise ValueError(
                    f"{archive}: expected one {ratings}, found {len(matches)} among "
                    f"{', '.join(m.filename for m in members)}; is this the edition you named?"
                )
            readmes = [m for m in members if PurePosixPath(m.filename).name in _README_NAMES]
            readme = zip_file.read(readmes[0]).decode(errors="replace") if readmes else ""
    except (BadZipFile, OSError) as error:
        raise ValueError(
            f"{archive}: expected a whole zip archive ({error}); download it again"
        ) from error
    facts = {
        "archive_md5": file_md5(archive),
        "ratings_dated": "{:04d}-{:02d}-{:02d}".format(*matches[0].date_time[:3]),
        "ratings_bytes": str(matches[0].file_size),
    }
    if match := re.search(r"generated on (\w+ \d{1,2}, \d{4})", readme):
        facts["generated_on"] = match[1]
    if match := re.search(r"([\d,]+)\s+(?:anonymous\s+)?ratings", readme):
        facts["stated_ratings"] = match[1].replace(",", "")
    return matches[0].filename, facts


def _refuse_unsafe(archive: Path, info: ZipInfo) -> None:
    # No file is ever unpacked, so such a name could do no harm. But GroupLens has no such archive.
    path = PurePosixPath(info.filename.replace("\\", "/"))
    if path.is_absolute() or ".." in path.parts:
        raise ValueError(
            f"{archive}: member {info.filename!r} points outside the archive; expected plain names"
        )
