"""The schema of a recipe: the settings that, with the input files, determine a dataset."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)

from skiprec.config.reading import explain, read_toml, with_overrides
from skiprec.config.section import Section
from skiprec.data.ingest.conditions import parse_condition
from skiprec.data.ingest.text_stream import FIELD_END
from skiprec.data.manifest import canonical_sha256
from skiprec.data.splits import SplitConfig

Column = Annotated[str, Field(min_length=1)]
OnBadRow = Literal["error", "skip"]


def _known_time_format(time_format: str) -> str:
    if time_format not in ("number", "integer", "iso8601") and "%" not in time_format:
        raise ValueError(
            f"{time_format!r}; expected number, integer, iso8601 or a strptime pattern such as "
            "%d/%m/%Y"
        )
    if "%Z" in time_format:
        raise ValueError(
            f"{time_format!r} has a name of a time zone, which may mean several; expected an "
            "offset (%z), or times in UTC without %Z"
        )
    return time_format


def _known_encoding(encoding: str) -> str:
    try:
        b"text".decode(encoding, errors="replace")  # refuses rot13, too, which encodes no text
    except LookupError:
        raise ValueError(
            f"{encoding!r} is no encoding that Python knows; expected for example utf-8, latin-1, "
            "cp1252 or utf-16"
        ) from None
    return encoding


TimeFormat = Annotated[str, AfterValidator(_known_time_format)]
Encoding = Annotated[str, AfterValidator(_known_encoding)]


class _Columns(Section):
    """The columns of a table of interactions or histories.

    A user's interactions are ordered by time, then by the order column, then by place in the input.
    """

    user_column: Column | None = None
    """Column of the user's id. None, with `row_holds = "history"` only: each row is a user with the
    id `<number of the input file>:<number of the row>`, both counted from 1."""
    item_column: Column
    """Column of the item's id, or of all ids of a history."""
    row_holds: Literal["interaction", "history"] = "interaction"
    """What a row holds: one `interaction`, or a `history`, as a list or as text with blanks between
    the items, the oldest first. All items of a row have the time of the row."""
    time_column: Column | None = None
    """Column of the time, by which a user's interactions are ordered. None: no times."""
    order_column: Column | None = None
    """Column of whole numbers that orders interactions of equal time. None: no such column."""
    time_format: TimeFormat | None = None
    """How text in the time column is read: `number`, `integer` (whole numbers beyond 2^53, such as
    nanoseconds), `iso8601`, or a strptime pattern such as `%d/%m/%Y`. None: `number`. In a date, ??
    stands for an unknown day or month; the first one is taken for it, and counted."""
    time_unit: Literal["s", "ms", "us", "ns"] | None = None
    """Unit of times that are numbers, counted since 1970. None: unknown; their order is enough
    unless dates are needed (`times`, split `by_time`)."""
    keep: tuple[str, ...] = ()
    """Conditions such as `Quantity > 0`; a row that fails one of them is dropped."""
    on_bad_row: OnBadRow = "error"
    """What happens at a row that cannot be read. `error`: the build stops. `skip`: the row is
    counted in the manifest and left out."""

    @field_validator("keep")
    @classmethod
    def _conditions_can_be_read(cls, keep: tuple[str, ...]) -> tuple[str, ...]:
        for text in keep:
            parse_condition(text)
        return keep

    @model_validator(mode="after")
    def _settings_are_used(self) -> Self:
        for key in ("time_format", "time_unit"):
            if self.time_column is None and getattr(self, key) is not None:
                raise ValueError(f"{key} has no effect without time_column; remove it")
        if self.user_column is None and self.row_holds == "interaction":
            raise ValueError(
                "source.user_column is missing; a row is a user of its own only with "
                'source.row_holds = "history"'
            )
        return self

    def columns(self) -> tuple[str, ...]:
        """The columns that a reader needs, each once."""
        named = [self.user_column, self.item_column, self.time_column, self.order_column]
        conditions = [parse_condition(text).column for text in self.keep]
        return tuple(dict.fromkeys(column for column in named + conditions if column is not None))


class TextSource(_Columns):
    """Text files with one interaction on each line."""

    kind: Literal["text"] = "text"
    """Text files with one interaction on each line; gz, bz2, xz, zst and zip are decompressed while
    they are read."""
    encoding: Encoding = "utf-8"
    """Encoding of the text, such as `latin-1`; a byte order mark overrides it."""
    separator: str = ","
    """Text between two fields: one ASCII character, or one that is repeated, such as `::`."""
    header: bool = True
    """Whether the first line names the columns. Without a header, a column is named by its number,
    counted from 1."""
    quoted: bool = True
    """Whether double quotes around a field protect the separators and line breaks in it."""

    @property
    def delimiter(self) -> str:
        """The one character by which readers split; it stands for a separator of several."""
        return self.separator if len(self.separator) == 1 else FIELD_END.decode()

    @field_validator("separator")
    @classmethod
    def _is_one_character_perhaps_repeated(cls, separator: str) -> str:
        separator = separator.replace("\\t", "\t")  # as a shell passes it
        if not separator or len(set(separator)) != 1 or not separator.isascii():
            raise ValueError(
                f"separator {separator!r}; expected one ASCII character, which may be repeated"
            )
        return separator

    @model_validator(mode="after")
    def _columns_are_numbers_without_a_header(self) -> Self:
        for column in self.columns() if not self.header else ():
            if not (column.isdecimal() and int(column) >= 1):
                raise ValueError(
                    f"column {column!r} in a file without a header; expected its number, from 1"
                )
        return self


class ParquetSource(_Columns):
    """Parquet files."""

    kind: Literal["parquet"] = "parquet"
    """Parquet files."""


class ArrowSource(_Columns):
    """Arrow IPC files (Feather) or streams."""

    kind: Literal["arrow"] = "arrow"
    """Arrow IPC files (Feather) or streams."""


class JsonSource(_Columns):
    """Text files with a JSON object on each line."""

    kind: Literal["jsonl"] = "jsonl"
    """Text files with a JSON object on each line, whose keys are the columns. Ids and times are
    read as if they were text; conditions compare numbers and booleans as such. They may be
    compressed."""
    encoding: Encoding = "utf-8"
    """Encoding of the text; a byte order mark overrides it."""


class SequenceSource(Section):
    """Text files with one history on each line, oldest item first, fields separated by blanks."""

    kind: Literal["sequences"] = "sequences"
    """Text files with one history on each line: items separated by blanks, the oldest first."""
    encoding: Encoding = "utf-8"
    """Encoding of the text; a byte order mark overrides it."""
    first_field_is_user: bool
    """Whether a line begins with the user's id. Otherwise the id of a line's user is
    `<number of the input file>:<number of the line>`, both counted from 1."""
    on_bad_row: OnBadRow = "error"
    """What happens at a user without items. `error`: the build stops. `skip`: the line is counted
    in the manifest and left out."""


class SyntheticSource(Section):
    """Generated histories of easy and hard users; `synthetic.py` describes the process."""

    kind: Literal["synthetic"] = "synthetic"
    """Generated histories of easy and hard users; there are no input files."""
    num_users: Annotated[int, Field(ge=1)] = 20_000
    """Number of generated users."""
    num_categories: Annotated[int, Field(ge=2)] = 12
    """Number of categories of the regular items, at least 2."""
    items_per_category: Annotated[int, Field(ge=2)] = 12
    """Number of regular items in each category, at least 2."""
    num_markers: Annotated[int, Field(ge=1)] = 8
    """Number of marker items of each of the two kinds of users."""
    hard_frac: Annotated[float, Field(ge=0, le=1)] = 0.5
    """Share of hard users."""
    marker_frac: Annotated[float, Field(ge=0, lt=1)] = 0.1
    """Probability that a position shows a marker instead of its regular item; below 1."""
    min_length: Annotated[int, Field(ge=3)] = 40
    """Shortest length of a history, in items, at least 3."""
    max_length: Annotated[int, Field(ge=3)] = 40
    """Longest length of a history, in items; lengths are drawn uniformly."""
    category_lag: Annotated[int, Field(ge=1)] = 8
    """How many items back a hard user's next category comes from."""
    member_lag: Annotated[int, Field(ge=1)] = 13
    """How many items back a hard user's next member number comes from."""
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    """Seed of everything that is drawn."""

    @model_validator(mode="after")
    def _lengths_are_ordered(self) -> Self:
        if self.max_length < self.min_length:
            raise ValueError(f"max_length {self.max_length} is below min_length {self.min_length}")
        return self


TypedSource = ParquetSource | ArrowSource | JsonSource
TableSource = TextSource | TypedSource
Source = Annotated[
    TextSource | ParquetSource | ArrowSource | JsonSource | SequenceSource | SyntheticSource,
    Field(discriminator="kind"),
]


class Filters(Section):
    """Filters of users and items. Each is applied once, in this order, after `source.keep`."""

    max_users: Annotated[int, Field(ge=1)] | None = None
    """Most users that are kept: the first in the order of the hashed id. None: all of them."""
    min_item_count: Annotated[int, Field(ge=1)] = 1
    """Fewest interactions of an item that is kept."""
    max_items: Annotated[int, Field(ge=1)] | None = None
    """Most items that are kept: the most frequent ones. None: all of them."""
    min_history: Annotated[int, Field(ge=1)] = 3
    """Fewest remaining interactions of a user who is kept; not below `min_items`."""
    drop_repeats: Literal["none", "consecutive", "all"] = "none"
    """Repeats of an item that are left out of a history, before `min_history` counts: those that
    follow the same item directly (`consecutive`), or `all` but the first."""


YOUNGER_SETTINGS = {
    "source": ("row_holds", "time_unit", "encoding"),
    "filters": ("drop_repeats",),
    "split": ("evaluation_ends", "max_ends"),
}


def _drop_defaults(settings: dict[str, Any], section: Section, keys: tuple[str, ...]) -> None:
    for key in keys:
        field = type(section).model_fields.get(key)
        if field is not None and settings[key] == field.default:
            del settings[key]


class Recipe(Section):
    """The settings of a dataset. Equal input files and equal recipes give equal rows anywhere."""

    name: Annotated[str, Field(min_length=1)]
    """Name of the dataset, for people."""
    window: Annotated[int, Field(ge=2)]
    """Number of items in a row: `window - 1` inputs and the last target; at least 2."""
    min_items: Annotated[int, Field(ge=2)] = 3
    """Fewest items of a row that is kept, at least 2; a shorter rest of a history is left out."""
    source: Source
    """The layout of the input files."""
    filters: Filters = Filters()
    """The users and items that are kept."""
    times: bool = False
    """Whether the shards have the time of each item, in milliseconds since 1970."""
    split: SplitConfig
    """How the rows are divided into train, validation and test."""

    @model_validator(mode="after")
    def _lengths_fit(self) -> Self:
        if self.min_items > self.window:
            raise ValueError(
                f"min_items {self.min_items} is above window {self.window}, so no row can be kept; "
                f"expected at most {self.window}"
            )
        if self.filters.min_history < self.min_items:
            raise ValueError(
                f"filters.min_history {self.filters.min_history} is below min_items "
                f"{self.min_items}: a user with so few items gives no row; expected at least "
                f"{self.min_items}"
            )
        return self

    @property
    def hash(self) -> str:
        """sha256 of all settings, with the defaults filled in.

        A setting that is younger than the first datasets counts only if it is not at its default,
        so that theirs keep their hash.
        """
        settings = self.model_dump(mode="json")
        _drop_defaults(settings, self, ("times",))
        for section in ("source", "filters", "split"):
            _drop_defaults(settings[section], getattr(self, section), YOUNGER_SETTINGS[section])
        return canonical_sha256(settings)


def load_recipe(path: Path, overrides: Mapping[str, Any] | None = None) -> Recipe:
    """The recipe in a TOML file, with `overrides` from dotted keys to values set in it.

    Raises:
        ValueError: unreadable file, unknown key (the nearest valid one is named), wrong value.
    """
    content = read_toml(path, "recipe", "datasets/recipes")
    return make_recipe(content, overrides or {}, origin=str(path))


def make_recipe(content: dict[str, Any], overrides: Mapping[str, Any], origin: str) -> Recipe:
    """The validated recipe of some settings; `origin` names their source in error messages.

    A value of None in `overrides` takes its key out, so that its default holds.

    Raises:
        ValueError: every key that is wrong, with the nearest valid one.
    """
    try:
        return Recipe.model_validate(with_overrides(content, overrides.items()))
    except ValidationError as error:
        raise ValueError(f"recipe {origin}: " + "; ".join(explain(Recipe, error))) from error
