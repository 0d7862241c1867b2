"""How a file of settings is read: its TOML, `--set` overrides, and errors that name the key.

Configurations of runs, recipes of datasets, studies and sweeps share this module. No function here
knows a key.
"""

import copy
import difflib
import json
import tomllib
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, NamedTuple, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

# Lower than difflib's default of 0.6, because keys are long and users abbreviate them.
_LEAST_LIKENESS = 0.4


def read_toml(path: Path, noun: str, shipped: str) -> dict[str, Any]:
    """The contents of a TOML file.

    Args:
        noun: the kind of file, for error messages: "configuration file" or "recipe".
        shipped: the folder of this repository that holds such files.

    Raises:
        ValueError: there is no such file, or it is not valid TOML.
    """
    try:
        return tomllib.loads(path.read_text())
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
        raise ValueError(f"no {noun} at {path}; the shipped ones are in {shipped}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not valid TOML: {error}") from None


def parse_override(text: str, model: type[BaseModel]) -> tuple[str, Any]:
    """The key and the value of `dotted.key=value`. The value is None in `dotted.key=`.

    The value is read as TOML. Text that is not a TOML value is taken as it stands, and so is every
    value of a key that `model` takes for text: `name=2024` is the name "2024".
    """
    key, equals, raw = text.partition("=")
    key, value = key.strip(), raw.strip()
    if not equals or not key:
        raise ValueError(f"--set {text!r}: expected dotted.key=value")
    if not value:
        # A tab or a blank is a value of a key for text, such as a separator.
        return key, raw if raw and _takes_text(model, key.split(".")) else None
    try:
        parsed = tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        return key, value
    return key, value if _takes_text(model, key.split(".")) and value[0] not in "'\"" else parsed


def _takes_text(model: type[BaseModel], keys: list[str]) -> bool:
    """Whether a key is one whose value is always text, in every kind of its sections."""
    *parents, leaf = keys
    sections = [model]
    for parent in parents:
        fields = [s.model_fields[parent] for s in sections if parent in s.model_fields]
        sections = [below for field in fields for below in _sections(field)]
    fields = [s.model_fields[leaf] for s in sections if leaf in s.model_fields]
    return bool(fields) and all(_is_text(field.annotation) for field in fields)


def _is_text(annotation: Any) -> bool:
    if get_origin(annotation) is Annotated:
        return _is_text(get_args(annotation)[0])
    options = get_args(annotation)
    if options and get_origin(annotation) in (Union, UnionType, Literal):
        return all(option is NoneType or _is_text(option) for option in options)
    return annotation is str or isinstance(annotation, str)  # a value of a Literal


def with_overrides(tree: dict[str, Any], overrides: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    """A copy of `tree` with each `(dotted key, value)` set, in this order.

    The value None takes the key out, so that its default holds again: TOML has no null.
    """
    tree = copy.deepcopy(tree)
    for dotted, value in overrides:
        *parents, leaf = dotted.split(".")
        section = tree
        for parent in parents:
            section = section.setdefault(parent, {})
            if not isinstance(section, dict):
                raise ValueError(f"cannot set {dotted!r}: {parent!r} is a value, not a section")
        if value is None:
            section.pop(leaf, None)
        else:
            section[leaf] = value
    return tree


def closest(name: str, names: Iterable[str]) -> str | None:
    """The name that a user who wrote `name` most likely meant; None if none is alike."""
    matches = difflib.get_close_matches(name, list(names), n=1, cutoff=_LEAST_LIKENESS)
    return matches[0] if matches else None


def explain(model: type[BaseModel], error: ValidationError) -> list[str]:
    """One sentence for each error in the settings of `model`; it names the key as the file does."""
    return [_explain(model, dict(problem)) for problem in error.errors()]


class _Place(NamedTuple):
    """Where an error is: its keys, the section that holds the last one, and that section's kind.

    `kinds` has the sections among which a key such as `kind` chooses; it is empty where there is
    no such choice. `section` is None inside of a value.
    """

    keys: list[str]
    section: type[BaseModel] | None
    kind: str | None
    kinds: dict[str, type[BaseModel]]


def _explain(model: type[BaseModel], problem: dict[str, Any]) -> str:
    keys, section, kind, kinds = _locate(model, problem["loc"])
    key, above = ".".join(keys), ".".join(keys[:-1])
    if problem["type"] == "union_tag_invalid":
        return f"{key}.kind: expected one of {problem['ctx']['expected_tags']}; {problem['msg']}"
    if problem["type"] == "union_tag_not_found" and section is not None:
        options = _sections_by_kind(section.model_fields[keys[-1]])
        return f"{key}.kind is missing; expected one of {', '.join(map(repr, options))}"
    if problem["type"] in ("tuple_type", "list_type"):
        found = problem["input"]
        return f"{key}: expected a list such as [{json.dumps(found, default=str)}], found {found!r}"
    if problem["type"] == "missing" and kind is not None:
        return f"{above}.kind={kind!r} needs {key}"
    if problem["type"] != "extra_forbidden" or section is None:
        message = str(problem["msg"]).removeprefix("Value error, ")
        return f"{key}: {message}" if key else message
    if any(keys[-1] in other.model_fields for other in kinds.values()):
        return f"{key} has no effect with {above}.kind={kind!r}; remove it"
    near = closest(keys[-1], section.model_fields)
    elsewhere = [other for other in _all_keys(model) if other.split(".")[-1] == keys[-1]]
    meant = elsewhere or ([".".join([*keys[:-1], near])] if near else [])
    if not meant:
        return f"unknown key {key!r}; valid keys: {', '.join(section.model_fields)}"
    return f"unknown key {key!r}; did you mean {' or '.join(map(repr, meant))}?"


def _locate(model: type[BaseModel], location: tuple[int | str, ...]) -> _Place:
    """The place of an error. Pydantic adds the chosen kind to the location, the file does not."""
    keys: list[str] = []
    section: type[BaseModel] | None = model
    kind, kinds = None, dict[str, type[BaseModel]]()
    parts = list(location)
    while parts:
        keys.append(str(parts.pop(0)))
        if keys[-1].isdecimal():  # the place of a section in a list
            continue
        field = None if section is None else section.model_fields.get(keys[-1])
        if not parts:
            break
        kinds = {} if field is None else _sections_by_kind(field)
        kind = str(parts.pop(0)) if kinds else None
        if kind is not None:
            section = kinds[kind]
        else:
            sections = [] if field is None else _sections(field)
            section = sections[0] if len(sections) == 1 else None
    return _Place(keys, section, kind, kinds)


def _sections(field: FieldInfo) -> list[type[BaseModel]]:
    """The models in the type of a field, such as A and B of `A | B | None`."""
    options = get_args(field.annotation) or (field.annotation,)
    return [o for o in options if isinstance(o, type) and issubclass(o, BaseModel)]


def _sections_by_kind(field: FieldInfo) -> dict[str, type[BaseModel]]:
    """The models of a field by their `kind`; empty if the field offers no such choice."""
    if field.discriminator is None:
        return {}
    return {option.model_fields["kind"].default: option for option in _sections(field)}


def _all_keys(model: type[BaseModel]) -> dict[str, None]:
    """Every dotted key of the model, of all kinds of its sections, each once."""
    return dict.fromkeys(_each_key(model, ""))


def _each_key(model: type[BaseModel], prefix: str) -> Iterator[str]:
    for name, field in model.model_fields.items():
        yield prefix + name
        for section in _sections(field):
            yield from _each_key(section, f"{prefix}{name}.")
