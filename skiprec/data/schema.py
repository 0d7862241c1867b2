"""The columns of every Arrow file in a dataset folder, and the version of that layout."""

import pyarrow as pa

# Version 2 has a column of times, and is written only where a recipe asks for it.
SCHEMA_VERSION, SCHEMA_VERSION_WITH_TIMES = 1, 2
PADDING_ID = 0
# Number of rows in each file of a split, except the last. It is a constant so that equal data has
# equal files.
ROWS_PER_FILE = 65_536

MANIFEST_NAME = "manifest.json"
ITEMS_NAME = "items.arrow"
USERS_NAME = "users.arrow"
SPLIT_NAMES = ("train", "validation", "test")


def row_schema(window: int, *, has_times: bool = False) -> pa.Schema:
    """The columns of a shard. A row holds `window` item ids, left-padded with 0, the newest last.

    `end` is the position of the row's last item in the user's history, counted from 1. `times` has
    the time of each item in milliseconds since 1970, negative before, and 0 at padding.
    """
    fields = [
        pa.field("user", pa.int32(), nullable=False),
        pa.field("end", pa.int32(), nullable=False),
        pa.field("items", pa.list_(pa.int32(), window), nullable=False),
    ]
    if has_times:
        fields.append(pa.field("times", pa.list_(pa.int64(), window), nullable=False))
    return pa.schema(fields)


def item_schema(has_names: bool = False) -> pa.Schema:
    """The columns of items.arrow.

    `count` counts occurrences in all kept histories, `train_count` those in the train rows. An item
    without a name for people has null as its `name`.
    """
    fields = [
        pa.field("item", pa.int32(), nullable=False),
        pa.field("original_id", pa.string(), nullable=False),
        pa.field("count", pa.int64(), nullable=False),
        pa.field("train_count", pa.int64(), nullable=False),
    ]
    return pa.schema(fields + [pa.field("name", pa.string())] * has_names)


def user_schema(extra: tuple[str, ...] = ()) -> pa.Schema:
    """The columns of users.arrow. `extra` names further text columns: `kind` in synthetic data."""
    return pa.schema(
        [
            pa.field("user", pa.int32(), nullable=False),
            pa.field("original_id", pa.string(), nullable=False),
            pa.field("num_interactions", pa.int32(), nullable=False),
            *(pa.field(name, pa.string(), nullable=False) for name in extra),
        ]
    )
