"""Overrides are set in order, and an error names the key as it stands in the file."""

from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from pydantic import Field, ValidationError

from skiprec.config.reading import explain, parse_override, read_toml, with_overrides
from skiprec.config.section import Section


class Round(Section):
    kind: Literal["round"] = "round"
    radius: int


class Square(Section):
    kind: Literal["square"] = "square"
    side: int = Field(ge=1)


class Paint(Section):
    colour: str = "red"
    sizes: tuple[int, ...] = ()


class Drawing(Section):
    title: str = ""
    shape: Annotated[Round | Square, Field(discriminator="kind")]
    paint: Paint | None = None
    amounts: dict[str, float] = Field(default_factory=dict)


def errors_of(**tree: Any) -> list[str]:
    with pytest.raises(ValidationError) as caught:
        Drawing.model_validate(tree)
    return explain(Drawing, caught.value)


ROUND = {"kind": "round", "radius": 1}


@pytest.mark.parametrize(
    ("tree", "expected"),
    [
        ({"shape": {}}, "shape.kind is missing; expected one of 'round', 'square'"),
        ({"shape": {"kind": "round"}}, "shape.kind='round' needs shape.radius"),
        (
            {"shape": ROUND | {"side": 2}},
            "shape.side has no effect with shape.kind='round'; remove it",
        ),
        (
            {"shape": ROUND | {"radus": 2}},
            "unknown key 'shape.radus'; did you mean 'shape.radius'?",
        ),
        ({"shape": ROUND, "colour": ""}, "unknown key 'colour'; did you mean 'paint.colour'?"),
        (
            {"shape": ROUND, "paint": {"zzz": 1}},
            "unknown key 'paint.zzz'; valid keys: colour, sizes",
        ),
        ({}, "shape: Field required"),
    ],
)
def test_an_error_names_its_key_and_what_to_write(tree: dict[str, Any], expected: str) -> None:
    assert errors_of(**tree) == [expected]
    Drawing.model_validate({"shape": ROUND})  # the control


def test_an_error_inside_of_a_value_names_the_place_in_it() -> None:
    (text,) = errors_of(shape=ROUND, paint={"sizes": [1, "x"]})
    assert text.startswith("paint.sizes.1: ")
    (text,) = errors_of(shape=ROUND, amounts={"a": "x"})
    assert text.startswith("amounts.a: ")
    (text,) = errors_of(shape={"kind": "square", "side": 0})
    assert text.startswith("shape.side: ")
    (text,) = errors_of(shape={"kind": "oval"})
    assert text.startswith("shape.kind: expected one of 'round', 'square'; ")
    assert len(errors_of(shape={"kind": "oval"}, titl="x")) == 2


def test_overrides_are_set_in_order_in_a_copy() -> None:
    tree = {"a": {"b": 1}}
    overrides = [("a.b", 2), ("c.d", 3), ("a", {"e": 4}), ("c.d", None), ("c.f", 5), ("g", None)]
    assert with_overrides(tree, overrides) == {"a": {"e": 4}, "c": {"f": 5}}
    assert tree == {"a": {"b": 1}}
    with pytest.raises(ValueError, match=r"cannot set 'a.b.c': 'b' is a value, not a section"):
        with_overrides(tree, [("a.b.c", 1)])


@pytest.mark.parametrize("text", ["a", "=3", " =", ""])
def test_text_that_is_no_override(text: str) -> None:
    with pytest.raises(ValueError, match=r"expected dotted\.key=value"):
        parse_override(text, Drawing)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_text("x = 1\n")
    assert read_toml(tmp_path / "a.toml", "recipe", "some/folder") == {"x": 1}
    for absent in (tmp_path, tmp_path / "b.toml", tmp_path / "a.toml" / "c.toml"):
        with pytest.raises(ValueError, match=r"no recipe at .*; the shipped ones are in some/fold"):
            read_toml(absent, "recipe", "some/folder")
