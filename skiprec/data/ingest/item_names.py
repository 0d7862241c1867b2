"""Names of items for people, from a table of the user's: an id and its name a row."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from skiprec.data.ingest.chunks import Tally
from skiprec.data.ingest.inputs import check_inputs, read_inputs
from skiprec.data.ingest.raw_files import RawFile, content_of_first
from skiprec.data.ingest.recipe import make_recipe

BLOCK_BYTES = 4 << 20


@dataclass(frozen=True)
class NameTable:
    """Where the names of items are. The file may be that of the interactions.

    Args:
        files: of any kind that a dataset is built from.
        id_column: has the id of an item, as the interactions have it.
        name_columns: have its name; of several columns the texts are joined with commas.
        how: further keys of `source` in a recipe, such as a separator.
    """

    files: Sequence[RawFile]
    id_column: str
    name_columns: tuple[str, ...]
    how: tuple[tuple[str, Any], ...] = ()


def read_names(table: NameTable) -> dict[str, str]:
    """The name of each item that has one: of several rows of an item, the first counts.

    Raises:
        ValueError: a file or a column is not there or cannot be read.
    """
    parts: list[dict[str, str]] = [_read_column(table, column) for column in table.name_columns]
    ids = dict.fromkeys(item for part in parts for item in part)
    return {item: ", ".join(part[item] for part in parts if item in part) for item in ids}


def _read_column(table: NameTable, column: str) -> dict[str, str]:
    """The reader of interactions reads it, with the id as the user and the name as the item."""
    source = {"kind": content_of_first(table.files), "on_bad_row": "skip", **dict(table.how)}
    content = {"name": "names", "window": 2, "min_items": 2, "split": {"kind": "by_user"}}
    columns = {"user_column": table.id_column, "item_column": column}
    recipe = make_recipe(content | {"source": source | columns}, {}, origin="of item names")
    files: list[tuple[RawFile, Any]] = [(file, "train") for file in table.files]
    check_inputs(recipe, files)
    names: dict[str, str] = {}
    for chunk, _ in read_inputs(recipe, files, Tally(0, 0, {}), BLOCK_BYTES):
        pairs = dict.fromkeys(
            zip(chunk.users_N.to_pylist(), chunk.items_N.to_pylist(), strict=True)
        )
        for item, name in pairs:
            names.setdefault(item, " ".join(name.split()))
    return names


def describe_names(table: NameTable) -> str:
    """The origin of the names, for the manifest."""
    files = ", ".join(Path(str(file)).name for file in table.files)
    return f"{files}: {table.id_column} -> {', '.join(table.name_columns)}"
