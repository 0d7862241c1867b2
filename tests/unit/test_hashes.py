"""The recorded hashes of every shipped recipe and configuration, and of one generated dataset.

A hash that moves means that existing datasets and runs are no longer recognised as the ones that a
file describes. After an intended change, or for a new file, write the record anew and say in the
commit why a hash moved:

    python -m tests.unit.test_hashes > tests/golden/hashes.json
"""

import json
import tempfile
from pathlib import Path

import pytest

from skiprec.config.files import config_hash, load_config
from skiprec.data.ingest import build_dataset, load_recipe, make_recipe
from tests.testkit.repository import ROOT

RECORDED = ROOT / "tests/golden/hashes.json"
RECIPES = ROOT / "datasets/recipes"
CONFIGS = ROOT / "jobs/configs"
GENERATED = "synthetic_smoke"


def recipe_hashes() -> dict[str, str]:
    return {path.stem: load_recipe(path).hash for path in sorted(RECIPES.glob("*.toml"))}


def config_hashes() -> dict[str, str]:
    """By path below jobs/configs; the files of sweeps are no configurations of a run."""
    paths = sorted(CONFIGS.rglob("*.toml"))
    return {
        str(path.relative_to(CONFIGS)): config_hash(load_config(path))
        for path in paths
        if not path.name.startswith("sweep_")
    }


def content_hashes(folder: Path) -> dict[str, str]:
    recipe = load_recipe(RECIPES / f"{GENERATED}.toml")
    manifest = build_dataset(recipe, [], folder / GENERATED, progress=lambda line: None)
    return {GENERATED: manifest.content_hash}


@pytest.fixture(scope="module")
def recorded() -> dict[str, dict[str, str]]:
    hashes: dict[str, dict[str, str]] = json.loads(RECORDED.read_text())
    return hashes


def test_the_hashes_of_recipes_are_the_recorded_ones(recorded: dict[str, dict[str, str]]) -> None:
    assert recipe_hashes() == recorded["recipes"]


def test_the_hashes_of_configurations_are_the_recorded_ones(
    recorded: dict[str, dict[str, str]],
) -> None:
    assert config_hashes() == recorded["configurations"]


def test_the_generated_data_is_the_recorded_one(
    recorded: dict[str, dict[str, str]], tmp_path: Path
) -> None:
    assert content_hashes(tmp_path) == recorded["content"]


def test_a_changed_setting_changes_the_hash(recorded: dict[str, dict[str, str]]) -> None:
    """The control of the tests above."""
    recipe = load_recipe(RECIPES / f"{GENERATED}.toml", {"source.seed": 1})
    assert recipe.hash != recorded["recipes"][GENERATED]
    same = make_recipe(recipe.model_dump(mode="json"), {"source.seed": 0}, origin="test")
    assert same.hash == recorded["recipes"][GENERATED]
    changed = load_config(CONFIGS / "smoke.toml", ["model.width=12"])
    assert config_hash(changed) != recorded["configurations"]["smoke.toml"]


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        hashes = {
            "recipes": recipe_hashes(),
            "configurations": config_hashes(),
            "content": content_hashes(Path(folder)),
        }
    print(json.dumps(hashes, indent=1))


if __name__ == "__main__":
    main()
