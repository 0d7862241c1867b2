"""The base of every section of a configuration."""

from pydantic import BaseModel, ConfigDict


class Section(BaseModel):
    """A part of the configuration. It is immutable, and an unknown key is an error.

    The sentence below each key is its description: `docs/configuration.md` is generated from them.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)
