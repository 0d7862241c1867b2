"""The base of every table of settings that a user writes."""

from pydantic import ConfigDict

from skiprec.frozen import Frozen


class Section(Frozen):
    """A part of a configuration or of a recipe.

    The sentence below each key is its description: `docs/configuration.md` and the tables of keys
    in `docs/data.md` are generated from them.
    """

    model_config = ConfigDict(use_attribute_docstrings=True)
