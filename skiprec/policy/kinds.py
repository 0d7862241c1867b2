"""The kinds of policy. A new kind is a folder beside this file, and its name in `KINDS`.

A kind's folder holds up to three modules, each with one class of a fixed name:

    options.py    `Options`    its `[policy]` section; imports only pydantic and other sections
    module.py     `Policy`     maps histories to keep decisions (see `skiprec/policy/base.py`)
    training.py   `Training`   what it adds to training (see `skiprec/policy/training.py`)

A control has no `training.py`. The three modules belong to three levels of imports, so they are
looked up here by name.
"""

from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Annotated, Any, Union

from pydantic import Field

from skiprec.policy.section import PolicySection

NO_POLICY = "none"
KINDS = (
    NO_POLICY,
    "keep_all",
    "random",
    "fixed",
    "gumbel",
    "reinforce",
    "cost",
)


def class_of(kind: str, part: str) -> Any:
    """The class in the module `part` of a kind: "options", "module" or "training".

    The result is None if the kind has no such module.
    """
    module_name = f"skiprec.policy.{kind}.{part}"
    if find_spec(module_name) is None:
        return None
    class_name = {"options": "Options", "module": "Policy", "training": "Training"}[part]
    return getattr(import_module(module_name), class_name)


OPTIONS: dict[str, type[PolicySection]] = {kind: class_of(kind, "options") for kind in KINDS}

if TYPE_CHECKING:
    PolicyConfig = PolicySection
else:
    PolicyConfig = Annotated[Union[tuple(OPTIONS.values())], Field(discriminator="kind")]  # noqa: UP007


def policy_section(kind: str, **options: Any) -> PolicySection:
    """The `[policy]` section of one kind with these options.

    Raises:
        ValueError: the kind is unknown.
    """
    if kind not in OPTIONS:
        raise ValueError(f"unknown policy.kind {kind!r}; there are: {', '.join(OPTIONS)}")
    return OPTIONS[kind](**options)
