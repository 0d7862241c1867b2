"""Each learned kind of policy trains on two ranks, and resumes bit for bit. No Ray."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from skiprec.checkpoints.files import WEIGHTS, step_name
from skiprec.config.run import RunConfig
from skiprec.training.collectives import ProcessGroup
from tests.testkit.networks import LEARNED
from tests.testkit.ranks import run_ranks
from tests.testkit.runs import (
    build_smoke_data,
    last_weights,
    metric,
    policy_overrides,
    same_weights,
    smoke_config,
    starts,
    steps,
    train_here,
)

CRASH_AT = 4
SETTINGS = (
    *steps(6, rows=32),
    "model.num_blocks=3",
    f"training.checkpoint_every_steps={CRASH_AT}",
    "training.keep_checkpoints=9",
    "training.micro_batch_rows=9",
    "cluster.num_workers=2",
    "cluster.zero_stage=2",
)


def configs(root: Path, data: Path, kind: str) -> tuple[RunConfig, RunConfig]:
    """An unbroken run of a kind of policy, and one that is cut off."""
    settings = (*policy_overrides(kind), *SETTINGS)
    whole = smoke_config(root, data, f"name={kind}-whole", *settings)
    return whole, whole.model_copy(update={"name": f"{kind}-broken"})


def two_ranks(root: Path, data: Path) -> None:
    comm = ProcessGroup()
    for kind in LEARNED:
        whole, broken = configs(root, data, kind)
        train_here(whole, comm)
        try:
            train_here(broken, comm, crash_at=CRASH_AT)
        except InterruptedError:
            train_here(broken, comm)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    root = tmp_path_factory.mktemp("kinds")
    data = build_smoke_data(root)
    run_ranks(two_ranks, 2, root, data)
    return root, data


@pytest.mark.parametrize("kind", LEARNED)
def test_a_run_resumes_bit_for_bit(folders: tuple[Path, Path], kind: str) -> None:
    whole, broken = configs(*folders, kind)
    assert len(starts(broken)) == 2
    assert metric(broken, "train/loss") == metric(whole, "train/loss")
    end = last_weights(broken)
    assert same_weights(end, last_weights(whole))
    # The control: the policy moved after the checkpoint from which the second start went on.
    early = load_file(broken.folder / "checkpoints" / step_name(CRASH_AT) / WEIGHTS)
    moved = {name for name in end if not torch.equal(early[name], end[name])}
    assert any(name.startswith("policy.") for name in moved)
