"""The reference of a run's configuration, `docs/configuration.md`, from the sections themselves.

python -m skiprec.config.reference > docs/configuration.md
"""

import json
import textwrap
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt
from pydantic.fields import FieldInfo

from skiprec.config.cluster import ClusterConfig
from skiprec.config.data import DataConfig
from skiprec.config.evaluation import EvaluationConfig
from skiprec.config.loss import LossConfig
from skiprec.config.model import ModelConfig
from skiprec.config.run import RunConfig
from skiprec.config.section import Section
from skiprec.config.training import TrainingConfig
from skiprec.policy.kinds import OPTIONS

TITLE = """# Every key of a configuration

<!-- Generated: python -m skiprec.config.reference > docs/configuration.md -->

A configuration is a TOML file of `jobs/configs` with the sections below.
`--set section.key=value` overrides a key, `--set section.key=` takes it out again, and `--dry-run`
prints the result. An unknown key is an error that names the nearest known one. A key that has no
effect beside the other keys is an error, too.
"""
SECTIONS: tuple[tuple[str, type[Section]], ...] = (
    ("data", DataConfig),
    ("model", ModelConfig),
    ("loss", LossConfig),
    ("training", TrainingConfig),
    ("cluster", ClusterConfig),
    ("evaluation", EvaluationConfig),
)
LINE = 118
SIGNS = {Ge: "≥", Gt: ">", Le: "≤", Lt: "<"}


def reference() -> str:
    """The whole page, in Markdown."""
    run = {
        name: field
        for name, field in RunConfig.model_fields.items()
        if not (name in dict(SECTIONS) or name in ("policy", "pretraining"))
    }
    lines = [TITLE, "## The run", "", _text(RunConfig), "", *_table(run), ""]
    for name, section in SECTIONS:
        lines += [f"## `[{name}]`", "", _text(section), "", *_table(section.model_fields), ""]
    pretraining = RunConfig.model_fields["pretraining"].description or ""
    lines += ["## `[pretraining]`", "", f"{pretraining} It has the same keys.", ""]
    lines += ["## `[policy]`", ""]
    lines += ["`kind` chooses the kind of policy; each kind has keys of its own.", ""]
    for kind, options in OPTIONS.items():
        lines += [f"### `kind = {json.dumps(kind)}`", "", _text(options), ""]
        keys = {name: field for name, field in options.model_fields.items() if name != "kind"}
        lines += [*_table(keys), ""] if keys else []
    return "\n".join(lines).rstrip() + "\n"


def _text(section: type[Section]) -> str:
    """A section's docstring, wrapped anew."""
    paragraphs = (section.__doc__ or "").split("\n\n")
    return "\n\n".join(textwrap.fill(" ".join(text.split()), LINE) for text in paragraphs)


def _table(fields: dict[str, FieldInfo]) -> list[str]:
    lines = ["| key | value | default | meaning |", "|---|---|---|---|"]
    for name, field in fields.items():
        meaning = " ".join((field.description or "").split())
        cells = (f"`{name}`", _value(field), _default(field), meaning)
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return lines


def _value(field: FieldInfo) -> str:
    bounds = [
        f"{sign} {_plain(getattr(bound, kind.__name__.lower()))}"
        for bound in field.metadata
        for kind, sign in SIGNS.items()
        if isinstance(bound, kind)
    ]
    return ", ".join([_type(field.annotation), *bounds])


def _type(annotation: Any) -> str:
    """What may stand as a value, in words."""
    arguments = get_args(annotation)
    if get_origin(annotation) is Literal:
        return ", ".join(f"`{value}`" for value in arguments)
    if get_origin(annotation) in (Union, UnionType):
        return " or ".join(_type(part) for part in arguments if part is not NoneType)
    if get_origin(annotation) is tuple:
        return f"list of {_type(arguments[0])}s"
    if get_origin(annotation) is dict:
        return "table"
    if get_origin(annotation) is not None:  # Annotated
        return _type(arguments[0])
    names = {int: "whole number", float: "number", str: "text", bool: "`true`, `false`"}
    return names.get(annotation) or str(annotation.__name__)


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=True)
    return "none" if value is None else f"`{_plain(value)}`"


def _plain(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else json.dumps(value)


if __name__ == "__main__":
    print(reference(), end="")
