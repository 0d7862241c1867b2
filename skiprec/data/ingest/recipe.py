"""What a dataset is made of: the frozen settings that, with the input files, determine its rows."""

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
    return time_format


TimeFormat = Annotated[str, AfterValidator(_known_time_format)]


class _Columns(Section):
    """Which columns hold what. Rows are ordered by time, then order, then place in the file."""

    user_column: Column
    item_column: Column
    time_column: Column | None = None
    order_column: Column | None = None
    # How text in the time column is read; None is "number".
    time_format: TimeFormat | None = None
    keep: tuple[str, ...] = ()  # conditions such as "Quantity > 0"; rows that fail one are dropped
    on_bad_row: OnBadRow = "error"

    @field_validator("keep")
    @classmethod
    def _conditions_can_be_read(cls, keep: tuple[str, ...]) -> tuple[str, ...]:
        for text in keep:
            parse_condition(text)
        return keep

    @model_validator(mode="after")
    def _time_format_is_used(self) -> Self:
        if self.time_column is None and self.time_format is not None:
            raise ValueError("time_format has no effect without time_column; remove it")
        return self


class TextSource(_Columns):
    """A text file of one interaction a line; `.gz` is read as it is."""

    kind: Literal["text"] = "text"
    # One character, or one repeated ("::" in GroupLens' .dat files).
    separator: str = ","
    # Without a header, columns are named by their number, counted from 1.
    header: bool = True
    quoted: bool = True  # double quotes around a field protect separators in it

    @field_validator("separator")
    @classmethod
    def _is_one_character_perhaps_repeated(cls, separator: str) -> str:
        if not separator or len(set(separator)) != 1 or not separator.isascii():
            raise ValueError(
                f"separator {separator!r}; expected one ASCII character, perhaps repeated"
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

    def columns(self) -> tuple[str, ...]:
        """Every column that is read, each once."""
        return _columns_read(self)


class ParquetSource(_Columns):
    """A Parquet file of one interaction a row."""

    kind: Literal["parquet"] = "parquet"

    def columns(self) -> tuple[str, ...]:
        """Every column that is read, each once."""
        return _columns_read(self)


class SequenceSource(Section):
    """A text file of one history a line, oldest item first, fields between blanks.

    Without a user field the user's id is "<number of the input file>:<line>", both from 1.
    """

    kind: Literal["sequences"] = "sequences"
    first_field_is_user: bool
    on_bad_row: OnBadRow = "error"


class SyntheticSource(Section):
    """Generated histories of easy and hard users; `synthetic.py` describes the process."""

    kind: Literal["synthetic"] = "synthetic"
    num_users: Annotated[int, Field(ge=1)] = 20_000
    num_categories: Annotated[int, Field(ge=2)] = 12
    items_per_category: Annotated[int, Field(ge=2)] = 12
    num_markers: Annotated[int, Field(ge=1)] = 8  # for each of the two kinds
    hard_frac: Annotated[float, Field(ge=0, le=1)] = 0.5
    marker_frac: Annotated[float, Field(ge=0, lt=1)] = 0.1
    min_length: Annotated[int, Field(ge=3)] = 40
    max_length: Annotated[int, Field(ge=3)] = 40
    category_lag: Annotated[int, Field(ge=1)] = 8
    member_lag: Annotated[int, Field(ge=1)] = 13
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0

    @model_validator(mode="after")
    def _lengths_are_ordered(self) -> Self:
        if self.max_length < self.min_length:
            raise ValueError(f"max_length {self.max_length} is under min_length {self.min_length}")
        return self


TableSource = TextSource | ParquetSource
Source = Annotated[
    TextSource | ParquetSource | SequenceSource | SyntheticSource, Field(discriminator="kind")
]


class Filters(Section):
    """Applied once each, in this order, after the row conditions of the source."""

    max_users: Annotated[int, Field(ge=1)] | None = None  # the first in order of the hashed id
    min_item_count: Annotated[int, Field(ge=1)] = 1
    max_items: Annotated[int, Field(ge=1)] | None = None  # the most frequent ones
    min_history: Annotated[int, Field(ge=1)] = 3


class Recipe(Section):
    """Input files + recipe = dataset; equal ones give equal rows on any machine."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]+$")]
    window: Annotated[int, Field(ge=2)]  # items in a row: window - 1 inputs and the last target
    min_items: Annotated[int, Field(ge=2)] = 3  # shorter rows are dropped
    source: Source
    filters: Filters = Filters()
    split: SplitConfig

    @model_validator(mode="after")
    def _lengths_fit(self) -> Self:
        if self.min_items > self.window:
            raise ValueError(
                f"min_items {self.min_items} is over window {self.window}: no row fits"
            )
        if self.filters.min_history < self.min_items:
            raise ValueError(
                f"filters.min_history {self.filters.min_history} is under min_items "
                f"{self.min_items}: such a user gives no row; expected at least {self.min_items}"
            )
        return self

    @property
    def hash(self) -> str:
        """sha256 of all settings, defaults included."""
        return canonical_sha256(self.model_dump(mode="json"))


def _columns_read(source: _Columns) -> tuple[str, ...]:
    named = [source.user_column, source.item_column, source.time_column, source.order_column]
    conditions = [parse_condition(text).column for text in source.keep]
    return tuple(dict.fromkeys(column for column in named + conditions if column is not None))


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
