"""The columns of every Arrow file in a dataset folder, and the version of that layout."""

import pyarrow as pa

SCHEMA_VERSION = 1
PADDING_ID = 0
# Rows of one split are cut into files of this many; a constant, so that equal data has equal files.
ROWS_PER_FILE = 65_536

MANIFEST_NAME = "manifest.json"
ITEMS_NAME = "items.arrow"
USERS_NAME = "users.arrow"
SPLIT_NAMES = ("train", "validation", "test")


def row_schema(window: int) -> pa.Schema:
    """One row: `window` item ids, left-padded with 0, the newest last.

    `end` is the position, counted from 1, of the row's last item in the history of the user.
    """
    return pa.schema(
        [
            pa.field("user", pa.int32(), nullable=False),
            pa.field("end", pa.int32(), nullable=False),
            pa.field("items", pa.list_(pa.int32(), window), nullable=False),
        ]
    )


# `count` is over all kept histories, `train_count` over the cells of the train rows.
ITEM_SCHEMA = pa.schema(
    [
        pa.field("item", pa.int32(), nullable=False),
        pa.field("original_id", pa.string(), nullable=False),
        pa.field("count", pa.int64(), nullable=False),
        pa.field("train_count", pa.int64(), nullable=False),
    ]
)


def user_schema(extra: tuple[str, ...] = ()) -> pa.Schema:
    """One line a user; `extra` names further text columns (synthetic data has `kind`)."""
    return pa.schema(
        [
            pa.field("user", pa.int32(), nullable=False),
            pa.field("original_id", pa.string(), nullable=False),
            pa.field("num_interactions", pa.int32(), nullable=False),
            *(pa.field(name, pa.string(), nullable=False) for name in extra),
        ]
    )
