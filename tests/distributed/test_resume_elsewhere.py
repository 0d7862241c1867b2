"""A run resumes with another number of workers, another ZeRO stage or another engine.

Its samples are those of the unbroken run, in the same order. The content of the checkpoint is
restored bit for bit; losses agree up to the order of sums.
"""

import itertools
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from cluster.training.build import build_engine, build_network
from skiprec.checkpoints.files import ENGINE, WEIGHTS, step_name
from skiprec.config.run import RunConfig
from skiprec.data.batching import TrainingReader
from skiprec.data.order import DataOrder
from skiprec.data.shards import ShardSet
from skiprec.training.collectives import ProcessGroup
from tests.testkit.ranks import run_ranks
from tests.testkit.runs import (
    build_smoke_data,
    last_weights,
    metric,
    same_weights,
    smoke_config,
    train_here,
)

pytestmark = pytest.mark.slow
TORCH = "training.engine=torch"
SETTINGS = (
    "model.num_blocks=2",
    "training.checkpoint_every_steps=1",
    "training.keep_checkpoints=20",
    "training.precision={precision}",
    # Every source of randomness and every statistic of the batch that a run can have.
    "policy.budget=batch",
    "policy.budget_weight=0.3",
    "policy.target_keep_frac=0.5",
    "model.dropout=0.1",
)
# Where a run is after 3, 6 and 10 steps: (ranks, stage, micro-batches of so many rows).
ROUTES = {
    "2-1-2": ((2, 2, None), (1, 2, None), (2, 2, None)),
    "stages": ((2, 3, None), (2, 1, None), (1, 0, None)),
    "shrinks": ((2, 0, None), (1, 3, 16), (1, 1, None)),
    "grows": ((1, 1, None), (2, 3, 9), (2, 0, None)),
}
ENDS = (3, 6, 0)
PRECISIONS = ("fp32", "bf16")


def config_of(root: Path, data: Path, name: str, precision: str, *more: str) -> RunConfig:
    settings = [setting.format(precision=precision) for setting in SETTINGS]
    return smoke_config(root, data, f"name={name}-{precision}", *settings, *more)


def leg(root: Path, data: Path, world_size: int, index: int) -> None:
    """The part `index` of every route that is on this number of ranks."""
    comm = ProcessGroup()
    for (name, legs), precision in itertools.product(ROUTES.items(), PRECISIONS):
        ranks, stage, micro = legs[index]
        if ranks != world_size:
            continue
        placed = [f"cluster.num_workers={ranks}", f"cluster.zero_stage={stage}"]
        if micro is not None:
            placed.append(f"training.micro_batch_rows={micro}")
        config = config_of(root, data, name, precision, *placed)
        try:
            train_here(config, comm, crash_at=ENDS[index])
        except InterruptedError:
            continue


def optimizer_state(folder: Path) -> dict[tuple[str, str], torch.Tensor]:
    """`{(parameter, what): all its values}` in a checkpoint's engine folder, from all ranks."""
    parts: dict[tuple[str, str], dict[int, torch.Tensor]] = {}
    for path in folder.glob("rank-*.safetensors"):
        with safe_open(path, "pt") as file:
            for key in file.keys():
                name, start, what = key.rsplit("/", 2)
                parts.setdefault((name, what), {})[int(start)] = file.get_tensor(key)
    return {
        key: found[0] if key[1] == "step" else torch.cat([found[start] for start in sorted(found)])
        for key, found in parts.items()
    }


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    root = tmp_path_factory.mktemp("elsewhere")
    data = build_smoke_data(root)
    for precision in PRECISIONS:
        train_here(config_of(root, data, "unbroken", precision, TORCH))
    for index in range(len(ENDS)):
        for world_size in (1, 2):
            run_ranks(leg, world_size, root, data, world_size, index)
    return root, data


@pytest.fixture(params=PRECISIONS)
def folders(trained: tuple[Path, Path], request: pytest.FixtureRequest) -> tuple[Path, Path, str]:
    return *trained, request.param


@pytest.mark.parametrize("route", ROUTES)
def test_the_curve_is_the_unbroken_one(folders: tuple[Path, Path, str], route: str) -> None:
    root, data, precision = folders
    expected = metric(config_of(root, data, "unbroken", precision, TORCH), "train/loss")
    config = config_of(root, data, route, precision)
    starts = [
        line
        for line in (config.folder / "events-rank0.jsonl").read_text().splitlines()
        if "training from step" in line
    ]
    assert [f"from step {step} " in line for step, line in zip((0, 3, 6), starts, strict=True)]
    found = metric(config, "train/loss")
    assert len(found) == 10
    assert found == pytest.approx(expected, rel=1e-5 if precision == "fp32" else 0.01)


@pytest.mark.parametrize("route", ROUTES)
def test_every_parameter_has_all_of_its_state(folders: tuple[Path, Path, str], route: str) -> None:
    root, data, precision = folders
    config = config_of(root, data, route, precision)
    sizes = {name: tensor.numel() for name, tensor in last_weights(config).items()}
    for step in (*ENDS[:2], 10):
        state = optimizer_state(config.folder / "checkpoints" / step_name(step) / ENGINE)
        assert {name for name, _ in state} == sizes.keys() - {"policy.price_1"}
        for (name, what), values in state.items():
            if what == "step":
                assert values == step, (name, step)
            else:
                assert values.numel() == sizes[name], (name, what)


def all_saved_again(root: Path, data: Path, step: int, into: Path) -> None:
    for precision in PRECISIONS:
        config = config_of(root, data, "unbroken", precision, TORCH)
        saved_again(config, step, into / precision)


def saved_again(config: RunConfig, step: int, into: Path) -> None:
    """Loads a checkpoint where this rank is, and saves it without a step in between."""
    comm = ProcessGroup()
    shards = ShardSet.open(Path(config.data.path), "train")
    reader = TrainingReader(
        shards, DataOrder(0, shards.num_rows), 64, comm.world_size, comm.rank, None
    )
    for stage in (0, 1, 2, 3):
        placed = config.cluster.model_copy(update={"zero_stage": stage})
        elsewhere = config.model_copy(
            update={
                "cluster": placed,
                "training": config.training.model_copy(update={"engine": "deepspeed"}),
            }
        )
        network = build_network(elsewhere, shards.num_items)
        engine = build_engine(elsewhere, network, reader, torch.device("cpu"))
        path = config.folder / "checkpoints" / step_name(step)
        engine.load(path / ENGINE, load_file(path / WEIGHTS))
        folder = into / f"stage-{stage}"
        folder.mkdir(parents=True, exist_ok=True)
        engine.save(folder)
        weights = engine.network_weights()
        if weights is not None:
            save_file(weights, folder / WEIGHTS)


@pytest.fixture(scope="module")
def again(trained: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    into = tmp_path_factory.mktemp("again")
    run_ranks(all_saved_again, 2, *trained, 6, into)
    return into


def test_loading_and_saving_changes_no_bit(folders: tuple[Path, Path, str], again: Path) -> None:
    root, data, precision = folders
    config = config_of(root, data, "unbroken", precision, TORCH)
    path = config.folder / "checkpoints" / step_name(6)
    for stage in (0, 1, 2, 3):
        found = optimizer_state(again / precision / f"stage-{stage}")
        assert same_weights(found, optimizer_state(path / ENGINE)), stage
        weights = load_file(again / precision / f"stage-{stage}" / WEIGHTS)
        assert same_weights(weights, load_file(path / WEIGHTS)), stage
    assert not same_weights(found, optimizer_state(path.with_name(step_name(5)) / ENGINE))
