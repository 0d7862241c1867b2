"""The kinds of policy. A new kind is a folder beside this file and its name in `KINDS`.

A kind's folder holds up to three modules, each with one class of a fixed name:

    options.py    `Options`    its `[policy]` section; imports pydantic and other sections alone
    module.py     `Policy`     from a history to keep decisions (see `base.py`)
    training.py   `Training`   what it adds to training (see `training.py`); a control has none

The three are imported at three levels of the code, so they are looked up here by name.
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
    """The class in a module of a kind: `part` is "options", "module" or "training".

    Returns None where the kind has no such module.
    """
    place = f"skiprec.policy.{kind}.{part}"
    if find_spec(place) is None:
        return None
    name = {"options": "Options", "module": "Policy", "training": "Training"}[part]
    return getattr(import_module(place), name)


OPTIONS: dict[str, type[PolicySection]] = {kind: class_of(kind, "options") for kind in KINDS}

if TYPE_CHECKING:
    PolicyConfig = PolicySection
else:
    PolicyConfig = Annotated[Union[tuple(OPTIONS.values())], Field(discriminator="kind")]  # noqa: UP007


def policy_section(kind: str, **options: Any) -> PolicySection:
    """The section of one kind, from its options.

    Raises:
        ValueError: an unknown kind.
    """
    if kind not in OPTIONS:
        raise ValueError(f"unknown policy.kind {kind!r}; there are: {', '.join(OPTIONS)}")
    return OPTIONS[kind](**options)
