"""A network is used only on data in which its item ids mean the items that it was trained on."""

import json
import shutil
from pathlib import Path

import pyarrow as pa
import pytest

from cluster.evaluation.evaluate import evaluate_run
from cluster.runs.data import refuse_other_items
from cluster.runs.folder import open_run
from cluster.training.launch import check_inputs
from skiprec.config.run import RunConfig
from skiprec.data.ingest import build_dataset, load_recipe
from skiprec.data.manifest import read_manifest
from skiprec.data.shards import items_hash
from tests.testkit.runs import SMOKE_RECIPE, build_smoke_data, smoke_config, train_here


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> RunConfig:
    root = tmp_path_factory.mktemp("trained")
    config = smoke_config(root, build_smoke_data(root), "training.engine=torch")
    open_run(config)
    train_here(config)
    return config


@pytest.fixture
def renumbered(trained: RunConfig, tmp_path: Path) -> Path:
    """The same dataset with the ids of two items exchanged."""
    folder = tmp_path / "data"
    shutil.copytree(trained.data.path, folder)
    with pa.OSFile(str(folder / "items.arrow")) as file:
        items = pa.ipc.open_file(file).read_all()
    names = items["original_id"].to_pylist()
    names[:2] = names[1::-1]
    place = items.schema.get_field_index("original_id")
    items = items.set_column(place, items.schema.field("original_id"), pa.array(names))
    with pa.ipc.new_file(folder / "items.arrow", items.schema) as writer:
        writer.write_table(items)
    return folder


def test_another_split_or_window_of_the_same_items_has_the_same_hash(
    trained: RunConfig, tmp_path: Path
) -> None:
    recipe = load_recipe(SMOKE_RECIPE)
    other = recipe.model_copy(update={"window": recipe.window - 2})
    build_dataset(other, [], tmp_path / "other", progress=lambda _: None)
    data = Path(trained.data.path)
    assert read_manifest(data).content_hash != read_manifest(tmp_path / "other").content_hash
    assert items_hash(data) == items_hash(tmp_path / "other")


def test_items_are_compared_by_what_ids_mean(trained: RunConfig, renumbered: Path) -> None:
    data = Path(trained.data.path)
    num_items = read_manifest(data).num_items
    refuse_other_items(trained.folder, num_items, data)
    with pytest.raises(ValueError, match=rf"trained on {num_items + 1} items, .* has {num_items};"):
        refuse_other_items(trained.folder, num_items + 1, data)
    with pytest.raises(ValueError, match="trained on other items"):
        refuse_other_items(trained.folder, num_items, renumbered)


def test_evaluation_and_a_second_stage_refuse_other_items(
    trained: RunConfig, renumbered: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = trained.model_copy(
        update={"data": trained.data.model_copy(update={"path": str(renumbered)})}
    )
    with pytest.raises(ValueError, match="trained on other items"):
        evaluate_run(elsewhere, trained.folder, "a test")
    second = elsewhere.model_copy(update={"name": "second", "init_from": trained.name})
    (trained.folder / "result.json").write_text("{}")
    monkeypatch.setattr("cluster.training.launch.verify_files", lambda folder, manifest: None)
    with pytest.raises(ValueError, match="trained on other items"):
        check_inputs(second)


def test_a_state_of_a_version_that_did_not_say_is_taken(
    trained: RunConfig, renumbered: Path, tmp_path: Path
) -> None:
    shutil.copytree(trained.folder, tmp_path / "run")
    for path in (tmp_path / "run/checkpoints").glob("step-*/state.json"):
        state = json.loads(path.read_text())
        del state["items_hash"]
        path.write_text(json.dumps(state))
    num_items = read_manifest(renumbered).num_items
    refuse_other_items(tmp_path / "run", num_items, renumbered)
