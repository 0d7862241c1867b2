"""Every recipe that comes along is valid, and a wrong key names the nearest right one."""

import tomllib
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from skiprec.config.reading import parse_override
from skiprec.data.ingest.recipe import Recipe, load_recipe, make_recipe
from tests.testkit.recipe_tables import DOCUMENT, MODELS, with_tables

RECIPES = sorted((Path(__file__).parents[3] / "datasets" / "recipes").glob("*.toml"))
CONTENT: dict[str, Any] = {
    "name": "t",
    "window": 20,
    "source": {"kind": "text", "user_column": "u", "item_column": "i"},
    "split": {"kind": "by_user"},
}


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_recipe_files(path: Path) -> None:
    recipe = load_recipe(path)
    assert recipe.name.replace("-", "_") == path.stem
    assert Recipe.model_validate(recipe.model_dump(mode="json")).hash == recipe.hash


def test_the_settings_of_the_slides() -> None:
    windows = {p.stem: load_recipe(p).window for p in RECIPES if p.stem.startswith("slides")}
    assert windows == {"slides_weishi": 10, "slides_ml20": 20, "slides_ml100": 100}


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("windoww=3", r"unknown key 'windoww'; did you mean 'window'\?"),
        ("source.user_colum='x'", r"unknown key 'source\.user_colum'; .* 'source\.user_column'"),
        ("split.test_fraction=0.2", r"unknown key 'split\.test_fraction'; .* 'split\.test_frac'"),
        ("split.kind='by_usr'", "split.kind: .* 'by_user', 'by_window', 'leave_one_out', 'given'"),
        ("split.kind=", "split.kind is missing; expected one of 'by_user', 'by_window'"),
        ("min_history=3", "unknown key 'min_history'; did you mean 'filters.min_history'"),
        ("source.seed=1", "source.seed has no effect with source.kind='text'; remove it"),
        ("source.user_column=", "source.user_column is missing"),
        ("window=1", "window: .*greater than or equal to 2"),
        ("window=2", "min_items 3 is above window 2"),
        ("filters.min_history=2", "filters.min_history 2 is below min_items 3"),
        ("source.time_format='iso8601'", "time_format has no effect without time_column"),
        ("source.time_format='soon'", "time_format: .*expected number, integer, iso8601"),
        ("source.separator=',;'", "expected one ASCII character"),
        ("source.keep=['what']", "condition 'what'; expected for example"),
        ("source.header=false", "expected its number, from 1"),
        ("window.x=3", "cannot set 'window.x': 'window' is a value, not a section"),
    ],
)
def test_wrong_settings(override: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_recipe(CONTENT, dict([parse_override(override, Recipe)]), origin="test")
    assert make_recipe(CONTENT, {}, origin="test").window == 20  # control; CONTENT was not changed


def test_defaults_said_or_not_give_one_hash() -> None:
    said = make_recipe(CONTENT, {"min_items": 3, "filters.min_item_count": 1}, origin="test")
    assert said.hash == make_recipe(CONTENT, {}, origin="test").hash
    assert (
        said.hash
        != make_recipe(CONTENT, {"min_items": 4, "filters.min_history": 4}, origin="").hash
    )


def test_overrides_are_toml_values_or_text() -> None:
    assert parse_override("window = 3", Recipe) == ("window", 3)
    assert parse_override("split.kind=by_user", Recipe) == ("split.kind", "by_user")
    assert parse_override('source.keep=["x"]', Recipe) == ("source.keep", ["x"])
    assert parse_override("name=", Recipe) == ("name", None)
    assert parse_override("unknown.key=3", Recipe) == ("unknown.key", 3)
    with pytest.raises(ValueError, match=r"expected dotted\.key=value"):
        parse_override("a", Recipe)


@pytest.mark.parametrize("value", ["2024", "2024-11-28", "1e3", "true", "[1]", "shop+v2", "日志"])
@pytest.mark.parametrize("key", ["name", "source.user_column", "source.time_format"])
def test_a_key_that_is_text_takes_every_value_as_text(key: str, value: str) -> None:
    assert parse_override(f"{key}={value}", Recipe) == (key, value)
    assert parse_override(f'{key}="{value}"', Recipe) == (key, value)
    assert make_recipe(CONTENT, {"name": value}, origin="test").name == value


def test_a_younger_setting_counts_once_it_is_used() -> None:
    plain = make_recipe(CONTENT, {}, origin="test")
    used = {
        "times": True,
        "source.time_column": "t",
        "source.encoding": "latin-1",
        "source.row_holds": "history",
        "filters.drop_repeats": "all",
        "split.evaluation_ends": "random",
    }
    hashes = [make_recipe(CONTENT, {key: value}, "test").hash for key, value in used.items()]
    assert len({plain.hash, *hashes}) == len(used) + 1


def test_an_empty_override_brings_the_default_back() -> None:
    content = CONTENT | {"min_items": 4, "filters": {"min_history": 5}}
    assert make_recipe(content, {"min_items": None}, origin="test").min_items == 3
    assert make_recipe(content, {"min_items": 3}, origin="test").min_items == 3
    assert make_recipe(content, {}, origin="test").min_items == 4  # control


def test_files_that_are_no_recipe(tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match=r"no recipe at .*; the shipped ones are in datasets/recipes"
    ):
        load_recipe(tmp_path / "none.toml")
    (tmp_path / "bad.toml").write_text("window = ")
    with pytest.raises(ValueError, match="is not valid TOML"):
        load_recipe(tmp_path / "bad.toml")
    assert tomllib.loads(RECIPES[0].read_text())


@pytest.mark.parametrize("model", MODELS)
def test_every_key_has_one_description(model: type[BaseModel]) -> None:
    for name, field in model.model_fields.items():
        assert field.description, f"{model.__name__}.{name}"
        assert field.description.endswith("."), f"{model.__name__}.{name}"


def test_the_document_has_the_keys_of_the_schema() -> None:
    text = DOCUMENT.read_text()
    assert with_tables(text) == text, "run: python -m tests.testkit.recipe_tables"
    assert with_tables(text.replace("`source.member_lag`", "`source.x`")) == text  # it is written
    assert text.count("`source.member_lag`") == 1  # control: the key is in the document
