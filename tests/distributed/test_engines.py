"""The engines torch and DeepSpeed give the same losses, and each resumes bit for bit.

The runs have two real ranks without Ray.
"""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from cluster.runs.folder import open_run
from skiprec.config.run import RunConfig
from skiprec.policy.gumbel.module import FIRST_PRICE
from skiprec.training.collectives import ProcessGroup
from tests.testkit.ranks import run_ranks
from tests.testkit.runs import (
    best_weights,
    build_smoke_data,
    last_weights,
    metric,
    same_weights,
    smoke_config,
    steps,
    train_here,
)

TORCH = "training.engine=torch"
STEPS = 6
SHORT = (*steps(STEPS, rows=32), "model.num_blocks=2")
CRASH_AT = 4
CHECKPOINTS = f"training.checkpoint_every_steps={CRASH_AT}"
VARIANTS = {
    "plain": (),
    "clipped": ("training.grad_clip_norm=0.05",),
    "accumulated": ("training.micro_batch_rows=9",),
    "recomputed": ("training.activation_checkpointing=true",),
    "sparse": (
        "training.item_optimizer=sparse_adam",
        "training.micro_batch_rows=9",
        "loss.kind=sampled",
        "loss.num_negatives=20",
    ),
    "priced": ("policy.budget=shared", "policy.budget_weight=0.3"),
    "exits": (
        "policy={kind='none'}",
        "training.execution=dense",
        "model.num_blocks=4",
        "model.exits=[1, 2, 3, 4]",  # so that a step draws its second exit
        "model.stochastic_depth=0.3",
        "loss.teacher=mean",
        "loss.distillation_temperature=2.0",
    ),
    "early_state": ("policy.reads_after=1", "model.exits=[1, 2]", "model.exit_readouts=true"),
}
FROZEN = ("training.freeze_backbone=true", "init_from=first")
STAGES = (0, 1, 2, 3)
OFFLOADS = ((1, "optimizer"), (2, "optimizer"), (3, "optimizer"), (3, "parameters"))


def named(root: Path, data: Path, name: str, *overrides: str) -> RunConfig:
    return smoke_config(root, data, f"name={name}", *SHORT, *overrides)


def deepspeed_config(root: Path, data: Path, stage: int, name: str, *more: str) -> RunConfig:
    placing = (f"cluster.zero_stage={stage}", "cluster.num_workers=2")
    return named(root, data, f"{name}-zero{stage}", *placing, *more)


BF16 = ("plain", "exits", "early_state")
# Runs that are cut off; one of them has a price among what its checkpoint must hold.
RESUMED = ("priced", "exits", "early_state")


def broken_config(root: Path, data: Path, stage: int, variant: str) -> RunConfig:
    """A run that is cut off."""
    name = f"broken-{variant}"
    return deepspeed_config(root, data, stage, name, CHECKPOINTS, *VARIANTS[variant])


def bf16_config(root: Path, data: Path, stage: int, variant: str) -> RunConfig:
    return deepspeed_config(
        root, data, stage, f"bf16-{variant}", "training.precision=bf16", *VARIANTS[variant]
    )


def two_ranks(root: Path, data: Path) -> None:
    """Everything that needs the process group, in one start of the processes."""
    comm = ProcessGroup()
    for stage in STAGES:
        for name, overrides in VARIANTS.items():
            train_here(deepspeed_config(root, data, stage, name, *overrides), comm)
        for name in BF16:
            train_here(bf16_config(root, data, stage, name), comm)
        for name in RESUMED:
            train_in_two_parts(broken_config(root, data, stage, name), comm)


def two_ranks_more(root: Path, data: Path) -> None:
    """What only the slow tests look at."""
    comm = ProcessGroup()
    for stage in STAGES:
        for precision in ("fp32", "bf16"):
            train_sparse(root, data, stage, precision, comm)
        train_here(deepspeed_config(root, data, stage, "plain"), comm)
    for stage, what in OFFLOADS:
        train_in_two_parts(offloaded_config(root, data, stage, what), comm)


def offloaded_config(root: Path, data: Path, stage: int, what: str) -> RunConfig:
    """A run with its optimizer, or its weights too, in the memory of the CPU; it is cut off."""
    return deepspeed_config(
        root, data, stage, f"offload-{what}", f"cluster.offload={what}", CHECKPOINTS
    )


def train_in_two_parts(config: RunConfig, comm: ProcessGroup) -> None:
    """Killed after the checkpoint of step `CRASH_AT`, and started again."""
    try:
        train_here(config, comm, crash_at=CRASH_AT)
    except InterruptedError:
        train_here(config, comm)


def sparse_configs(root: Path, data: Path, stage: int, precision: str) -> tuple[RunConfig, ...]:
    """An unbroken run with sparse updates of the item tables, and one that is cut off."""
    more = (*VARIANTS["sparse"], f"training.precision={precision}", CHECKPOINTS)
    return tuple(
        deepspeed_config(root, data, stage, f"{name}-{precision}", *more)
        for name in ("sparse-whole", "sparse-broken")
    )


def train_sparse(root: Path, data: Path, stage: int, precision: str, comm: ProcessGroup) -> None:
    whole, broken = sparse_configs(root, data, stage, precision)
    train_here(whole, comm)
    train_in_two_parts(broken, comm)


def two_ranks_frozen(root: Path, data: Path) -> None:
    comm = ProcessGroup()
    for stage in STAGES:
        train_here(deepspeed_config(root, data, stage, "frozen", *FROZEN), comm)
        broken = deepspeed_config(root, data, stage, "frozen-broken", CHECKPOINTS, *FROZEN)
        train_in_two_parts(broken, comm)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return trained_by(two_ranks, tmp_path_factory.mktemp("engines"))


@pytest.fixture(scope="module")
def more_folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return trained_by(two_ranks_more, tmp_path_factory.mktemp("more"))


def trained_by(ranks: Callable[[Path, Path], None], root: Path) -> tuple[Path, Path]:
    data = build_smoke_data(root)
    run_ranks(ranks, 2, root, data)
    return root, data


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("variant", VARIANTS)
def test_deepspeed_matches_torch(folders: tuple[Path, Path], variant: str, stage: int) -> None:
    root, data = folders
    reference = named(root, data, f"torch-{variant}", TORCH, *VARIANTS[variant])
    if not reference.folder.exists():
        train_here(reference)
    expected = metric(reference, "train/loss")
    found = metric(deepspeed_config(root, data, stage, variant), "train/loss")
    assert len(found) == STEPS
    assert found == pytest.approx(expected, rel=2e-5)


@pytest.mark.slow
@pytest.mark.parametrize(("stage", "what"), OFFLOADS)
def test_offload_changes_no_loss(more_folders: tuple[Path, Path], stage: int, what: str) -> None:
    """Tests the code path of offloading; on a CPU there is no other memory to offload to."""
    offloaded = offloaded_config(*more_folders, stage, what)
    assert len((offloaded.folder / "events-rank0.jsonl").read_text().splitlines()) == 2
    plain = deepspeed_config(*more_folders, stage, "plain")
    assert metric(offloaded, "train/loss") == pytest.approx(metric(plain, "train/loss"), rel=1e-6)
    assert last_weights(offloaded).keys() == last_weights(plain).keys()


def test_the_seed_moves_the_curve(folders: tuple[Path, Path]) -> None:
    """The negative control: another seed moves the losses by far more than the tolerance above."""
    root, data = folders
    other = named(root, data, "torch-seed", TORCH, "training.seed=1")
    train_here(other)
    found = metric(deepspeed_config(root, data, 0, "plain"), "train/loss")
    assert found != pytest.approx(metric(other, "train/loss"), rel=2e-5)


def test_clipping_is_felt(folders: tuple[Path, Path]) -> None:
    root, data = folders
    norms = metric(deepspeed_config(root, data, 1, "clipped"), "train/grad_norm")
    assert max(norms) > 0.05, "nothing was clipped, so the comparison says nothing"


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("variant", BF16)
def test_bf16_stays_near_fp32(folders: tuple[Path, Path], variant: str, stage: int) -> None:
    root, data = folders
    exact = metric(deepspeed_config(root, data, stage, variant), "train/loss")
    found = metric(bf16_config(root, data, stage, variant), "train/loss")
    assert found == pytest.approx(exact, rel=0.02)
    assert found != exact


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("variant", RESUMED)
def test_resume_continues_bit_for_bit(folders: tuple[Path, Path], variant: str, stage: int) -> None:
    root, data = folders
    whole = deepspeed_config(root, data, stage, variant)
    broken = broken_config(root, data, stage, variant)
    starts = (broken.folder / "events-rank0.jsonl").read_text()
    assert f"training from step {CRASH_AT} to {STEPS}" in starts
    assert metric(broken, "train/loss") == metric(whole, "train/loss")
    assert same_weights(last_weights(broken), last_weights(whole))
    if variant == "priced":
        assert (last_weights(broken)["policy.price_1"] - FIRST_PRICE).abs() > 1e-4


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("stage", STAGES)
def test_sparse_updates_resume_bit_for_bit(
    more_folders: tuple[Path, Path], stage: int, precision: str
) -> None:
    whole, broken = sparse_configs(*more_folders, stage, precision)
    assert len((broken.folder / "events-rank0.jsonl").read_text().splitlines()) == 2
    assert metric(broken, "train/loss") == metric(whole, "train/loss")
    assert metric(broken, "train/grad_norm") == metric(whole, "train/grad_norm")
    assert same_weights(last_weights(broken), last_weights(whole))


@pytest.mark.slow
def test_a_frozen_backbone_resumes_bit_for_bit(tmp_path: Path) -> None:
    """Weights without a gradient are in no optimizer, but they are in every checkpoint."""
    data = build_smoke_data(tmp_path)
    first = named(tmp_path, data, "first", TORCH)
    open_run(first)
    train_here(first)
    start = best_weights(first)
    run_ranks(two_ranks_frozen, 2, tmp_path, data)
    for stage in STAGES:
        whole = deepspeed_config(tmp_path, data, stage, "frozen")
        broken = deepspeed_config(tmp_path, data, stage, "frozen-broken")
        assert metric(broken, "train/loss") == metric(whole, "train/loss"), stage
        end = last_weights(broken)
        assert same_weights(end, last_weights(whole)), stage
        moved = {name for name in start if not torch.equal(start[name], end[name])}
        assert moved, stage
        assert all(name.startswith("policy.") for name in moved), stage


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_torch_engine_resumes_bit_for_bit(tmp_path: Path, precision: str) -> None:
    data = build_smoke_data(tmp_path)
    settings = (TORCH, CHECKPOINTS, f"training.precision={precision}")
    whole = named(tmp_path, data, "whole", *settings)
    broken = named(tmp_path, data, "broken", *settings)
    train_here(whole)
    with pytest.raises(InterruptedError):
        train_here(broken, crash_at=CRASH_AT)
    assert len(metric(broken, "train/loss")) == CRASH_AT
    train_here(broken)
    assert metric(broken, "train/loss") == metric(whole, "train/loss")
    assert same_weights(last_weights(broken), last_weights(whole))
