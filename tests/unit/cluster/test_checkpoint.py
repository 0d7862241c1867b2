"""A checkpoint counts only if it verifies; a damaged one is skipped, and the skip is logged."""

import re
import shutil
from collections.abc import Callable
from itertools import cycle
from pathlib import Path

import pytest
import torch

from cluster.runs.folder import open_run
from cluster.training.build import build_network
from cluster.training.checkpoint import _prune, resume_point
from cluster.training.surroundings import Surroundings
from skiprec.checkpoints.files import best_good, newest_good, step_name, verify
from skiprec.checkpoints.network import load_network, start_from_backbone
from skiprec.config.run import RunConfig
from skiprec.training.collectives import SingleProcess
from tests.testkit.runs import (
    build_smoke_data,
    last_weights,
    metric,
    same_weights,
    smoke_config,
    train_here,
)

SETTINGS = ("training.engine=torch", "training.checkpoint_every_steps=3", "model.num_blocks=2")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> RunConfig:
    root = tmp_path_factory.mktemp("trained")
    config = smoke_config(root, build_smoke_data(root), *SETTINGS, "training.keep_checkpoints=3")
    open_run(config)
    train_here(config)
    return config


@pytest.fixture
def copied(trained: RunConfig, tmp_path: Path) -> RunConfig:
    """A copy of the trained run, which a test may damage."""
    shutil.copytree(trained.folder, tmp_path / trained.name)
    return trained.model_copy(update={"root": str(tmp_path)})


def truncate(path: Path) -> None:
    file = path / "weights.safetensors"
    file.write_bytes(file.read_bytes()[:-100])


def flip_a_byte(path: Path) -> None:
    file = path / "engine/rank-00000.safetensors"
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)


def remove_a_file(path: Path) -> None:
    (path / "state.json").unlink()


def tear_the_manifest(path: Path) -> None:
    file = path / "manifest.json"
    file.write_text(file.read_text()[:50])


def remove_the_manifest(path: Path) -> None:
    (path / "manifest.json").unlink()


DAMAGES = {
    truncate: "bytes",
    flip_a_byte: "sha256",
    remove_a_file: "missing",
    tear_the_manifest: "torn",
    remove_the_manifest: "never finished",
}


def test_all_kept_checkpoints_verify(trained: RunConfig) -> None:
    kept = sorted((trained.folder / "checkpoints").glob("step-*"))
    assert [path.name for path in kept] == ["step-00000006", "step-00000009", "step-00000010"]
    assert [verify(path) for path in kept] == [None, None, None]


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
def test_a_damaged_newest_is_passed_over(copied: RunConfig, damage: Callable[[Path], None]) -> None:
    folder = copied.folder / "checkpoints"
    damage(folder / "step-00000010")
    newest, skipped = newest_good(folder)
    assert newest == folder / "step-00000009"
    assert len(skipped) == 1
    assert "step-00000010" in skipped[0]
    assert DAMAGES[damage] in skipped[0]


def test_a_run_goes_on_from_the_one_before_the_damage(
    trained: RunConfig, copied: RunConfig
) -> None:
    folder = copied.folder / "checkpoints"
    flip_a_byte(folder / "step-00000010")
    train_here(copied)
    assert (folder / ".step-00000010.damaged").exists()
    assert (
        "passed over checkpoint step-00000010" in (copied.folder / "events-rank0.jsonl").read_text()
    )
    assert metric(copied, "train/loss") == metric(trained, "train/loss")
    assert same_weights(last_weights(copied), last_weights(trained))


def test_a_checkpoint_and_the_end_wait_while_busy_and_the_watchdog_hears_of_it(
    trained: RunConfig, tmp_path: Path
) -> None:
    answers = cycle([True, True, False])
    beats: list[int] = []
    beats_before: list[int] = []  # number of beats before each question

    class Busy(Surroundings):
        def is_uploading(self) -> bool:
            beats_before.append(len(beats))
            return next(answers)

        def beat(self, step: int) -> None:
            beats.append(step)

    config = trained.model_copy(update={"root": str(tmp_path)})
    train_here(config, surroundings=Busy(config))
    num_saved = 4  # steps 3, 6, 9, 10, of which three were kept
    assert len(beats_before) == 3 * (num_saved + 1)
    for first, second, third in zip(*[iter(beats_before)] * 3, strict=True):
        assert (second, third) == (first + 1, first + 2), "a beat between two questions"
    assert metric(config, "train/loss") == metric(trained, "train/loss")


def test_newer_damaged_ones_do_not_push_out_what_is_saved_after_them(copied: RunConfig) -> None:
    folder = copied.folder / "checkpoints"
    for step in (9, 10):
        flip_a_byte(folder / step_name(step))
    start, problems = resume_point(folder, SingleProcess(), torch.device("cpu"))
    assert start == folder / step_name(6)
    assert len(problems) == 2
    shutil.copytree(start, folder / step_name(7))
    _prune(folder, 1, best_step=6)
    assert {path.name for path in folder.glob("step-*")} == {step_name(6), step_name(7)}


class AsRank1(SingleProcess):
    """Rank 1 of two ranks; rank 0 chose the checkpoint of this step."""

    rank, world_size = 1, 2

    def __init__(self, step_of_rank_0: int):
        self.step_of_rank_0 = step_of_rank_0

    def sum(self, value: torch.Tensor) -> torch.Tensor:
        return value + self.step_of_rank_0


def test_all_ranks_go_on_from_what_rank_0_found(copied: RunConfig) -> None:
    folder = copied.folder / "checkpoints"
    for step in (0, 6, 9):  # Rank 1 sees a newer checkpoint.
        path, _ = resume_point(folder, AsRank1(step), torch.device("cpu"))
        assert path == (folder / step_name(step) if step else None)
    with pytest.raises(RuntimeError, match=r"rank 1 does not see .*step-00000011"):
        resume_point(folder, AsRank1(11), torch.device("cpu"))


def test_the_best_is_not_replaced_by_another_when_damaged(copied: RunConfig) -> None:
    folder = copied.folder / "checkpoints"
    truncate(best_good(folder))
    with pytest.raises(ValueError, match="is damaged"):
        best_good(folder)


def test_the_best_is_known_from_the_newest_and_stays(copied: RunConfig) -> None:
    """The newest checkpoint names the best one, even if the run died right after writing it."""
    folder = copied.folder / "checkpoints"
    best = best_good(folder)
    newest = folder / "step-00000011"
    shutil.copytree(folder / "step-00000010", newest)
    assert best_good(folder) == best == folder / "step-00000010"
    _prune(folder, 1, best_step=10)
    assert {path.name for path in folder.glob("step-*")} == {best.name, newest.name}


def test_a_run_that_was_never_validated_has_no_best(copied: RunConfig) -> None:
    shutil.rmtree(copied.folder / "checkpoints/step-00000010")
    with pytest.raises(ValueError, match="has not been validated yet"):
        best_good(copied.folder / "checkpoints")


def test_a_folder_without_a_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not a run folder"):
        load_network(tmp_path)


def test_two_stage_copies_the_backbone_and_nothing_else_fits(trained: RunConfig) -> None:
    config = trained.model_copy(update={"init_from": trained.name, "name": "second"})
    num_items = len(last_weights(trained)["head.weight_VD"])
    network = build_network(config, num_items)
    start_from_backbone(network, trained.folder)
    best = load_network(trained.folder)[1].state_dict()
    own = network.state_dict()
    backbone = [name for name in own if not name.startswith("policy.")]
    assert same_weights({n: own[n] for n in backbone}, {n: best[n] for n in backbone})

    with pytest.raises(ValueError, match=f"for {num_items + 1} items, found .* for {num_items};"):
        start_from_backbone(build_network(config, num_items + 1), trained.folder)
    deeper = config.model_copy(update={"model": config.model.model_copy(update={"num_blocks": 3})})
    with pytest.raises(ValueError, match=r"expected 3 blocks of width .*absent there"):
        start_from_backbone(build_network(deeper, num_items), trained.folder)


@pytest.mark.parametrize(
    ("key", "value"),
    [("backbone", "nextitnet"), ("dilations", (1, 2)), ("time", "request")],
    ids=lambda x: str(x),
)
def test_like_shapes_of_another_function_are_no_start(
    trained: RunConfig, key: str, value: object
) -> None:
    model = trained.model.model_copy(update={key: value})
    network = build_network(trained, len(last_weights(trained)["head.weight_VD"]))
    network.model_config = model
    with pytest.raises(ValueError, match=rf"expected model\.{key}={re.escape(repr(value))}, found"):
        start_from_backbone(network, trained.folder)


def test_a_default_that_is_written_out_is_the_same_function(trained: RunConfig) -> None:
    model = trained.model.model_copy(update={"dilations": (1, 4), "num_heads": 2})
    network = build_network(trained, len(last_weights(trained)["head.weight_VD"]))
    network.model_config = model
    start_from_backbone(network, trained.folder)


def test_a_policy_for_another_number_of_blocks_is_refused(copied: RunConfig) -> None:
    """The configuration beside the weights was edited."""
    edited = copied.model_copy(update={"model": copied.model.model_copy(update={"num_blocks": 1})})
    (copied.folder / "config.json").write_text(edited.model_dump_json())
    with pytest.raises(ValueError, match=r"policy.head.*\(4,.* there, \(2,.* here"):
        load_network(copied.folder)


def test_a_run_folder_without_a_checkpoint_says_so(copied: RunConfig) -> None:
    shutil.rmtree(copied.folder / "checkpoints")
    with pytest.raises(ValueError, match=r"has no finished checkpoint .* train it first"):
        load_network(copied.folder)
