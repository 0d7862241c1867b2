"""Reading, overriding, comparing and hashing configurations."""

import hashlib
import json
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from skiprec.config.reading import explain, parse_override, read_toml, with_overrides
from skiprec.config.run import RunConfig


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
    tree = read_toml(path, "configuration file", "jobs/configs")
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
    """A copy of `tree` with each `dotted.key=value` set; sweeps use this function, too.

    `dotted.key=` takes the key out, so that its default holds again.
    """
    return with_overrides(tree, map(parse_override, overrides))


def parse_config(tree: dict[str, Any], source: str) -> RunConfig:
    """The validated configuration; `source` begins each error message.

    Raises:
        ValueError: one line for each error, which names its key.
    """
    try:
        return RunConfig.model_validate(tree)
    except ValidationError as error:
        raise ValueError(f"{source}: " + "\n".join(explain(RunConfig, error))) from None


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
