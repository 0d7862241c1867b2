"""The columns of every Arrow file in a dataset folder, and the version of that layout."""

import pyarrow as pa

SCHEMA_VERSION = 1
PADDING_ID = 0
# Number of rows in each file of a split, except the last. It is a constant so that equal data has
# equal files.
ROWS_PER_FILE = 65_536

MANIFEST_NAME = "manifest.json"
ITEMS_NAME = "items.arrow"
USERS_NAME = "users.arrow"
SPLIT_NAMES = ("train", "validation", "test")


def row_schema(window: int) -> pa.Schema:
    """The columns of a shard. A row holds `window` item ids, left-padded with 0, the newest last.

    `end` is the position of the row's last item in the user's history, counted from 1.
    """
    return pa.schema(
        [
            pa.field("user", pa.int32(), nullable=False),
            pa.field("end", pa.int32(), nullable=False),
            pa.field("items", pa.list_(pa.int32(), window), nullable=False),
        ]
    )


# `count` counts occurrences in all kept histories, `train_count` those in the train rows.
ITEM_SCHEMA = pa.schema(
    [
        pa.field("item", pa.int32(), nullable=False),
        pa.field("original_id", pa.string(), nullable=False),
        pa.field("count", pa.int64(), nullable=False),
        pa.field("train_count", pa.int64(), nullable=False),
    ]
)


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
