"""Reading, overriding, comparing and hashing configurations."""

import copy
import difflib
import hashlib
import json
import tomllib
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from skiprec.config.run import RunConfig
from skiprec.policy.kinds import OPTIONS


def config_hash(config: RunConfig) -> str:
    """Sixteen hex digits over what decides the result: not the run's name, place or evaluation."""
    text = json.dumps(deciding_keys(config), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def deciding_keys(config: RunConfig) -> dict[str, Any]:
    """The part of the configuration that decides what is trained: not by how many workers, where.

    None means "off", so an option that a later version adds does not change what an older run is.
    """
    left_out = {"name", "root", "evaluation", "pretraining", "cluster"}
    return config.model_dump(mode="json", exclude=left_out, exclude_none=True)


def changed_keys(old: dict[str, Any], new: dict[str, Any], prefix: str = "") -> list[str]:
    """`key: old -> new` for each dotted key whose value differs."""
    changes = []
    for key in sorted(old.keys() | new.keys()):
        before, after = old.get(key), new.get(key)
        if isinstance(before, dict) and isinstance(after, dict):
            changes += changed_keys(before, after, f"{prefix}{key}.")
        elif before != after:
            changes.append(f"{prefix}{key}: {before!r} -> {after!r}")
    return changes


def load_config(path: Path, overrides: list[str] | tuple[str, ...] = ()) -> RunConfig:
    """The configuration in `path`, with `dotted.key=value` overrides; values are TOML or bare text.

    A file may name another one, beside it, in `base`: it then says only what differs from that.

    Raises:
        ValueError: unreadable file, unknown key (the nearest valid one is named), wrong value.
    """
    return parse_config(apply_overrides(read_tree(path), overrides), source=str(path))


def read_tree(path: Path, above: tuple[Path, ...] = ()) -> dict[str, Any]:
    """What a configuration file says, with the `base` that it names; not validated.

    Args:
        above: the files whose base it is, of which none may be its own.
    """
    if path in above:
        raise ValueError(f"{path} is its own base, by way of {', '.join(map(str, above))}")
    try:
        tree = tomllib.loads(path.read_text())
    except (FileNotFoundError, IsADirectoryError):
        raise ValueError(
            f"no configuration file at {path}; the shipped ones are in jobs/configs"
        ) from None
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"{path} is not valid TOML: {error}") from None
    if "base" not in tree:
        return tree
    base = tree.pop("base")
    if not isinstance(base, str):
        raise ValueError(f"{path}: base={base!r}; expected the name of another configuration file")
    return _merged(read_tree(path.parent / base, (*above, path)), tree)


def _merged(base: dict[str, Any], tree: dict[str, Any]) -> dict[str, Any]:
    """`base` with the keys of `tree`, section by section; one that names its kind starts afresh."""
    merged = dict(base)
    for key, value in tree.items():
        old = base.get(key)
        is_other_kind = isinstance(value, dict) and "kind" in value
        if isinstance(old, dict) and isinstance(value, dict) and not is_other_kind:
            value = _merged(old, value)
        merged[key] = value
    return merged


def apply_overrides(tree: dict[str, Any], overrides: list[str] | tuple[str, ...]) -> dict[str, Any]:
    """A copy of `tree` with each `dotted.key=value` set; sweeps use the same function.

    `dotted.key=` takes the key out, so that its default holds again.
    """
    tree = copy.deepcopy(tree)
    for override in overrides:
        key, equals, text = override.partition("=")
        if not equals:
            raise ValueError(f"--set {override!r}: expected dotted.key=value")
        try:
            value = tomllib.loads(f"value = {text}")["value"]
        except tomllib.TOMLDecodeError:
            value = text
        *parents, leaf = key.strip().split(".")
        section = tree
        for parent in parents:
            section = section.setdefault(parent, {})
            if not isinstance(section, dict):
                raise ValueError(f"--set {override!r}: {parent!r} is a value, not a section")
        if text.strip():
            section[leaf] = value
        else:
            section.pop(leaf, None)
    return tree


def parse_config(tree: dict[str, Any], source: str) -> RunConfig:
    """The validated configuration; one line an error, each naming its key."""
    try:
        return RunConfig.model_validate(tree)
    except ValidationError as error:
        lines = [_explain(dict(item)) for item in error.errors()]
        raise ValueError(f"{source}: " + "\n".join(lines)) from None


def _explain(error: dict[str, Any]) -> str:
    path = [str(part) for part in error["loc"]]
    if error["type"] == "union_tag_invalid":
        return f"policy.kind: expected one of {error['ctx']['expected_tags']}; {error['msg']}"
    kind = path.pop(1) if path[:1] == ["policy"] and len(path) > 2 else None
    if error["type"] == "missing" and kind is not None:
        return f"policy.kind={kind!r} needs {'.'.join(path)}"
    if error["type"] != "extra_forbidden":
        return f"{'.'.join(path)}: {error['msg']}" if path else str(error["msg"])
    section: type[BaseModel] = RunConfig if kind is None else OPTIONS[kind]
    for part in path[:-1] if kind is None else ():
        options = get_args(section.model_fields[part].annotation)  # of an optional section
        inner = options[0] if options else section.model_fields[part].annotation
        assert isinstance(inner, type)
        section = inner
    elsewhere = {name for other in OPTIONS.values() for name in other.model_fields}
    if kind is not None and path[-1] in elsewhere:
        return f"{'.'.join(path)} has no effect with policy.kind={kind!r}; remove it"
    near = difflib.get_close_matches(path[-1], section.model_fields, n=1, cutoff=0.4)
    hint = (
        f"did you mean {'.'.join([*path[:-1], near[0]])!r}?"
        if near
        else (f"valid keys: {', '.join(section.model_fields)}")
    )
    return f"unknown key {'.'.join(path)!r}; {hint}"


def config_toml(config: RunConfig) -> str:
    """The configuration as a TOML file that `load_config` reads back as it is."""
    tree = config.model_dump(mode="json", exclude_none=True)
    plain = {key: value for key, value in tree.items() if not isinstance(value, dict)}
    sections = {"": plain} | {key: value for key, value in tree.items() if key not in plain}
    parts = []
    for name, section in sections.items():
        # A JSON string, number, boolean or list of them is a TOML one, too.
        lines = [f"{key} = {_toml(value)}" for key, value in section.items()]
        parts.append("\n".join([f"[{name}]", *lines] if name else lines))
    return "\n\n".join(parts) + "\n"


def _toml(value: Any) -> str:
    """JSON is TOML but for tables."""
    if not isinstance(value, dict):
        return json.dumps(value)
    return "{" + ", ".join(f"{json.dumps(key)} = {_toml(v)}" for key, v in value.items()) + "}"
