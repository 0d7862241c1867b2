"""Small exported models for tests of what serves them."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from skiprec.data.ingest import build_dataset
from skiprec.data.ingest.recipe import make_recipe
from skiprec.inference.export import Validation, export_model
from skiprec.network import SkipRecNetwork
from tests.testkit.networks import (
    NUM_BLOCKS,
    NUM_ITEMS,
    WIDTH,
    build_network,
    model_config,
    policy_config,
)

WINDOW = 6
IDS = [f"item {number}" if number % 2 else str(number) for number in range(1, NUM_ITEMS + 1)]


def build_small_data(folder: Path, names: list[str], num_users: int) -> Path:
    """A dataset of six random items a user, in windows of 5, leave one out; returns its path."""
    generator = np.random.default_rng(0)
    lines = [f"{user},{item}" for user in range(num_users) for item in generator.choice(names, 6)]
    (folder / "log.csv").write_text("\n".join(["user,item", *lines]))
    source = {"kind": "text", "user_column": "user", "item_column": "item"}
    content = {"name": "shop", "window": 5, "source": source, "split": {"kind": "leave_one_out"}}
    recipe = make_recipe(content, {}, origin="test")
    build_dataset(recipe, [folder / "log.csv"], folder / "data", progress=str)
    return folder / "data"


def export_small_model(
    folder: Path,
    kind: str = "gumbel",
    backbone: str = "nextitnet_plus",
    with_onnx: bool = False,
    exits: tuple[int, ...] | None = None,
    readouts: bool | None = None,
    num_blocks: int = NUM_BLOCKS,
    width: int = WIDTH,
    names: list[str | None] | None = None,
    **changes: Any,
) -> SkipRecNetwork:
    """Exports a small network; its items are "item 1", "2", "item 3" and so on."""
    network = build_network(
        model_config(
            backbone, exits=exits, exit_readouts=readouts, num_blocks=num_blocks, width=width
        ),
        policy_config(kind, **changes),
    )
    network.eval()
    generator = np.random.default_rng(0)
    histories = [
        generator.integers(1, NUM_ITEMS + 1, generator.integers(1, WINDOW + 1)).astype(np.int32)
        for _ in range(40)
    ]
    targets = generator.integers(1, NUM_ITEMS + 1, 40).astype(np.int32)
    items = pa.table({"original_id": IDS, "train_count": np.arange(NUM_ITEMS, 0, -1)})
    if names is not None:
        items = items.append_column("name", pa.array(names, pa.string()))
    validation = Validation(histories, targets)
    made_by = {"policy": kind}
    export_model(
        network,
        "run",
        WINDOW,
        items,
        validation,
        made_by,
        folder,
        progress=str,
        with_onnx=with_onnx,
    )
    return network
