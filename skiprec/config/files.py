"""Reading, overriding, comparing and hashing configurations."""

import hashlib
import json
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from skiprec.config.reading import explain, parse_override, read_toml, with_overrides
from skiprec.config.run import RunConfig


def config_hash(config: RunConfig) -> str:
    """Sixteen hex digits of the sha256 of `deciding_keys`; two runs with this hash train alike."""
    text = json.dumps(deciding_keys(config), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def deciding_keys(config: RunConfig) -> dict[str, Any]:
    """The keys that decide what is trained: not the name, the folder, the evaluation, the workers.

    A key that is None is left out, because None means "off". An option that a later version adds
    with the default None therefore leaves the hash of older runs as it is.
    """
    left_out = {"name", "root", "evaluation", "pretraining", "cluster"}
    return config.model_dump(mode="json", exclude=left_out, exclude_none=True)


def changed_keys(old: dict[str, Any], new: dict[str, Any], prefix: str = "") -> list[str]:
    """`key: old -> new` for each dotted key whose values differ."""
    changes = []
    for key in sorted(old.keys() | new.keys()):
        before, after = old.get(key), new.get(key)
        if isinstance(before, dict) and isinstance(after, dict):
            changes += changed_keys(before, after, f"{prefix}{key}.")
        elif before != after:
            changes.append(f"{prefix}{key}: {before!r} -> {after!r}")
    return changes


def load_config(path: Path, overrides: list[str] | tuple[str, ...] = ()) -> RunConfig:
    """The configuration in a file, with `dotted.key=value` overrides set in it.

    A file may name another file of its folder in `base`, and then holds only the differences.

    Raises:
        ValueError: unreadable file, unknown key (the nearest valid one is named), wrong value.
    """
    return parse_config(apply_overrides(read_tree(path), overrides), source=str(path))


def read_tree(path: Path, above: tuple[Path, ...] = ()) -> dict[str, Any]:
    """The settings in a configuration file, merged into those of its `base`; not validated.

    Args:
        above: the files that led here through `base`, none of which may be `path`.

    Raises:
        ValueError: unreadable file, or a file that is its own base.
    """
    if path in above:
        raise ValueError(
            f"{path} is its own base, by way of {', '.join(map(str, above))}; remove one `base`"
        )
    tree = read_toml(path, "configuration file", "jobs/configs")
    if "base" not in tree:
        return tree
    base = tree.pop("base")
    if not isinstance(base, str):
        raise ValueError(f"{path}: base={base!r}; expected the name of another configuration file")
    return _merged(read_tree(path.parent / base, (*above, path)), tree)


def _merged(base: dict[str, Any], tree: dict[str, Any]) -> dict[str, Any]:
    """`base` with the keys of `tree` set in it, section by section.

    A section of `tree` that has a `kind` replaces the one of `base`, whose other keys may not fit.
    """
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
    return with_overrides(tree, (parse_override(text, RunConfig) for text in overrides))


def parse_config(tree: dict[str, Any], source: str) -> RunConfig:
    """The validated configuration; `source` begins each error message.

    Raises:
        ValueError: one line for each error, which names its key.
    """
    try:
        return RunConfig.model_validate(tree)
    except ValidationError as error:
        raise ValueError(f"{source}: " + "\n".join(explain(RunConfig, error))) from None


def saved_config(file: Path, overrides: list[str] | tuple[str, ...] = ()) -> RunConfig:
    """The configuration in the `config.json` of a run, perhaps of an older version.

    A key that was removed since, and that the run had not set, is left out.

    Raises:
        ValueError: one line for each error, which names its key; among them removed keys with a
            value.
    """
    tree = json.loads(file.read_text())
    try:
        RunConfig.model_validate(tree)
    except ValidationError as error:
        for detail in error.errors():
            if detail["type"] == "extra_forbidden" and detail["input"] is None:
                section = tree
                for name in detail["loc"][:-1]:
                    section = section.get(name, section)  # a union's member is not in the tree
                section.pop(detail["loc"][-1], None)
    return parse_config(apply_overrides(tree, overrides), str(file))


def config_toml(config: RunConfig) -> str:
    """The text of a TOML file from which `load_config` reads an equal configuration."""
    tree = config.model_dump(mode="json", exclude_none=True)
    plain = {key: value for key, value in tree.items() if not isinstance(value, dict)}
    sections = {"": plain} | {key: value for key, value in tree.items() if key not in plain}
    parts = []
    for name, section in sections.items():
        # JSON strings, numbers, booleans and lists of them are valid TOML.
        lines = [f"{key} = {_toml(value)}" for key, value in section.items()]
        parts.append("\n".join([f"[{name}]", *lines] if name else lines))
    return "\n\n".join(parts) + "\n"


def _toml(value: Any) -> str:
    """A value in TOML: JSON, except for tables."""
    if not isinstance(value, dict):
        return json.dumps(value)
    return "{" + ", ".join(f"{json.dumps(key)} = {_toml(v)}" for key, v in value.items()) + "}"
