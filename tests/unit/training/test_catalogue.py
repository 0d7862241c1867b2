"""A run begins with the weights of another catalogue: each item has its own row, by its id."""

import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cluster.runs.folder import open_run
from cluster.training.launch import check_inputs, launch_training
from skiprec.checkpoints.catalogue import (
    ITEM_TABLES,
    Neighbours,
    find_neighbours,
    match_items,
    moved,
    read_item_ids,
    read_train_counts,
)
from skiprec.checkpoints.network import load_network
from skiprec.config.run import RunConfig
from skiprec.data.ingest import build_dataset
from skiprec.data.ingest.recipe import make_recipe
from skiprec.data.shards import ShardSet
from tests.testkit.runs import smoke_config

IDS = st.lists(st.sampled_from("abcdefghij"), unique=True)


@given(IDS, IDS)
def test_every_item_is_kept_new_or_gone(new: list[str], old: list[str]) -> None:
    match = match_items(new, old)
    assert {new[k]: old[o] for k, o in zip(match.kept, match.kept_old, strict=True)} == {
        item: item for item in set(new) & set(old)
    }
    assert [new[index] for index in match.added] == [item for item in new if item not in old]
    assert match.gone == len(set(old) - set(new))
    counts = {"kept": len(match.kept), "new": len(match.added), "gone": match.gone}
    assert match.counts == counts | {"untrained": 0}
    trained = np.arange(len(new)) % 2
    untrained = [item for place, item in enumerate(new) if item not in old and place % 2 == 0]
    assert match_items(new, old, trained).untrained == len(untrained)


def tables(num_items: int, seed: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    made = {
        "embedding.table.weight": torch.randn(num_items + 1, 3, generator=generator),
        "head.weight_VD": torch.randn(num_items, 3, generator=generator),
        "head.bias_V": torch.randn(num_items, generator=generator),
        "stack.blocks.0.scale": torch.randn((), generator=generator),
    }
    made["embedding.table.weight"][0] = 0
    return made


@given(IDS, IDS)
def test_rows_move_with_their_items(new: list[str], old: list[str]) -> None:
    of_old, fresh = tables(len(old), 1), tables(len(new), 2)
    found = moved(of_old, fresh, match_items(new, old))
    for name, offset in ITEM_TABLES.items():
        for index, item in enumerate(new):
            source, at = (of_old, old.index(item)) if item in old else (fresh, index)
            assert torch.equal(found[name][offset + index], source[name][offset + at])
    assert torch.equal(found["embedding.table.weight"][0], torch.zeros(3))
    assert found["stack.blocks.0.scale"] is of_old["stack.blocks.0.scale"]


def test_a_new_item_becomes_the_mean_of_its_neighbours() -> None:
    old, new = ["a", "b"], ["x", "b", "y", "a"]
    of_old, fresh = tables(2, 1), tables(4, 2)
    # x stands three times beside b and once beside a; y beside no item that is known.
    neighbours = Neighbours(np.array([0, 0]), np.array([1, 3]), np.array([3, 1]))
    found = moved(of_old, fresh, match_items(new, old), neighbours)
    for name, offset in ITEM_TABLES.items():
        a, b = of_old[name][offset], of_old[name][offset + 1]
        torch.testing.assert_close(found[name][offset], (3 * b + a) / 4)
        assert torch.equal(found[name][offset + 2], fresh[name][offset + 2])


def build(folder: Path, histories: list[list[str]]) -> Path:
    source = {"kind": "text", "user_column": "user", "item_column": "item"}
    split = {"kind": "by_user"}
    content = {"name": "shop", "window": 6, "min_items": 2, "source": source, "split": split}
    recipe = make_recipe(content | {"filters": {"min_history": 2}}, {}, origin="test")
    log = folder.with_suffix(".csv")
    lines = [f"{user},{item}" for user, history in enumerate(histories) for item in history]
    log.write_text("\n".join(["user,item", *lines]))
    build_dataset(recipe, [log], folder, progress=str)
    return folder


def histories_of(items: str, seed: int) -> list[list[str]]:
    generator = np.random.default_rng(seed)
    return [generator.choice(list(items), 8).tolist() for _ in range(60)]


def test_neighbours_are_those_of_a_slow_count(tmp_path: Path) -> None:
    data = build(tmp_path / "data", histories_of("abcdefxy", 0))
    ids = read_item_ids(data)
    shards = ShardSet.open(data, "train")
    match = match_items(ids, list("abcdef"))
    expected: dict[tuple[str, str], int] = {}
    for row in shards.slice(0, shards.num_rows).items_RW:
        names = [ids[item - 1] for item in row if item]
        for left, right in pairwise(names):
            for item, beside in ((left, right), (right, left)):
                if item in "xy" and beside not in "xy":
                    expected[item, beside] = expected.get((item, beside), 0) + 1
    found = find_neighbours(shards, match)
    assert expected == {
        (ids[i], ids[b]): n for i, b, n in zip(found.item, found.beside, found.count, strict=True)
    }


@pytest.fixture(scope="module")
def older(tmp_path_factory: pytest.TempPathFactory) -> RunConfig:
    root = tmp_path_factory.mktemp("older")
    data = build(root / "monday", histories_of("abcdefgh", 1))
    config = smoke_config(root, data, "training.engine=torch", "cluster.num_workers=0", "name=mon")
    launch_training(config)
    return config


def tuesday(older: RunConfig, folder: Path, *options: str) -> RunConfig:
    """A run on a day on which "h" is gone and "x" and "y" are new."""
    data = build(folder / "tuesday", histories_of("abcdefgxy", 2))
    given = ("training.engine=torch", "cluster.num_workers=0", "name=tue", "init_from=mon")
    return smoke_config(Path(older.root), data, *given, f"root={older.root}", *options)


@pytest.mark.parametrize("how", ["fresh", "neighbours"])
def test_a_run_begins_where_the_one_of_another_day_ended(
    older: RunConfig, tmp_path: Path, how: str
) -> None:
    config = tuesday(older, tmp_path, f"init_items={how}", f"name=tue-{how}")
    result = launch_training(config)
    assert result["items"] == {"kept": 7, "new": 2, "gone": 1, "untrained": 0}
    assert json.loads((config.folder / "result.json").read_text()) == result
    _, network = load_network(config.folder)
    assert network.num_items == 9
    assert (config.folder / "items.arrow").exists()


@pytest.mark.parametrize("how", ["fresh", "neighbours"])
def test_the_first_weights_of_a_run_are_those_of_the_other_day(
    older: RunConfig, tmp_path: Path, how: str
) -> None:
    """A run that learns nothing ends with them: blocks as they were, items by their ids."""
    still = ("training.epochs=1", "training.learning_rate=1e-12")
    config = tuesday(older, tmp_path, f"init_items={how}", f"name=still-{how}", *still)
    launch_training(config)
    before, after = (load_network(run.folder)[1].state_dict() for run in (older, config))
    for name in before.keys() - ITEM_TABLES.keys():
        if not name.startswith("policy."):
            torch.testing.assert_close(after[name], before[name], rtol=0, atol=1e-6)
    old_ids, new_ids = (read_item_ids(run.folder) for run in (older, config))
    match = match_items(new_ids, old_ids)
    beside = find_neighbours(ShardSet.open(Path(config.data.path), "train"), match)
    assert set(beside.item) == set(match.added), "both new items have neighbours"
    for name, offset in ITEM_TABLES.items():
        for place, item in enumerate(new_ids):
            found = after[name][offset + place]
            if item in old_ids:
                wanted = before[name][offset + old_ids.index(item)]
                torch.testing.assert_close(found, wanted, rtol=0, atol=1e-6)
                continue
            mine = beside.item == place
            rows = [offset + old_ids.index(new_ids[one]) for one in beside.beside[mine]]
            weight = torch.from_numpy(beside.count[mine] / beside.count[mine].sum()).float()
            mean = torch.tensordot(weight, before[name][rows], dims=1)
            is_mean = torch.allclose(found, mean, rtol=0, atol=1e-5)
            assert is_mean == (how == "neighbours")


def test_new_items_without_a_training_row_are_told(tmp_path: Path) -> None:
    data = build(tmp_path / "data", histories_of("abcdefgx", 2))
    shards = ShardSet.open(data, "train")
    items_RW = shards.slice(0, shards.num_rows).items_RW
    expected = np.bincount(items_RW.ravel(), minlength=shards.num_items + 1)[1:]
    assert read_train_counts(data).tolist() == expected.tolist()
    match = match_items(["x", "a", "y"], ["a"], np.array([0, 3, 2]))
    assert match.text.startswith("1 kept, 2 new, 0 gone; 1 of the new ones are in no training row")
    assert "training row" not in match_items(["x"], ["a"], np.array([2])).text


def test_other_items_are_refused_unless_the_setting_says_so(
    older: RunConfig, tmp_path: Path
) -> None:
    config = tuesday(older, tmp_path, "name=refused")
    open_run(config)
    with pytest.raises(ValueError, match="init_items"):
        check_inputs(config)


def test_an_older_run_without_its_ids_is_told(older: RunConfig, tmp_path: Path) -> None:
    config = tuesday(older, tmp_path, "init_items=fresh", "name=old")
    open_run(config)
    (older.folder / "items.arrow").rename(older.folder / "gone.arrow")
    try:
        with pytest.raises(ValueError, match=r"mon, which has no items.arrow"):
            check_inputs(config)
    finally:
        (older.folder / "gone.arrow").rename(older.folder / "items.arrow")


def test_nothing_in_common_is_an_error(older: RunConfig, tmp_path: Path) -> None:
    data = build(tmp_path / "data", histories_of("12345", 3))
    given = ("training.engine=torch", "cluster.num_workers=0", "name=none", "init_from=mon")
    config = smoke_config(Path(older.root), data, *given, f"root={older.root}", "init_items=fresh")
    open_run(config)
    with pytest.raises(ValueError, match=r"no item of .* was in the data of"):
        check_inputs(config)
