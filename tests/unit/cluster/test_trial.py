"""A trial reports from its run's log and sealed checkpoints; PBT copies are exact."""

import json
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest

from cluster.runs.folder import open_run
from cluster.sweeps.trial import run_from, set_aside, validations
from cluster.training.build import build_network
from skiprec.config.run import RunConfig
from skiprec.evaluation.measure.compute_cost import measure_cost
from tests.testkit.runs import (
    build_smoke_data,
    last_weights,
    metric,
    same_weights,
    smoke_config,
    train_here,
)

VALIDATED = ("training.validate_every_steps=2", "training.keep_checkpoints=9")


def trained(root: Path, *overrides: str) -> RunConfig:
    config = smoke_config(root, root / "data", *VALIDATED, *overrides)
    open_run(config)
    train_here(config)
    return config


def reports(
    config: RunConfig, training: "Future[Any]", after_step: int = 0
) -> list[dict[str, Any]]:
    cost = measure_cost(build_network(config, 160), 19, 20)
    return list(validations(config, training, cost, after_step))


def ended(error: Exception | None = None) -> "Future[Any]":
    future: Future[Any] = Future()
    if error is None:
        future.set_result(None)
    else:
        future.set_exception(error)
    return future


def test_each_validation_is_reported_with_the_best_network_so_far(tmp_path: Path) -> None:
    build_smoke_data(tmp_path)
    config = trained(tmp_path, "training.engine=torch")
    results = reports(config, ended())
    validated = metric(config, "validation/mrr@20")
    assert [row["mrr@20"] for row in results] == [
        max(validated[: n + 1]) for n in range(len(validated))
    ]
    assert [row["samples"] for row in results] == [64 * row["step"] for row in results]
    kept = metric(config, "policy/keep_frac")
    best = max(range(len(validated)), key=lambda n: validated[n])
    assert results[-1]["keep_frac"] == pytest.approx(kept[best])
    assert results[-1]["flops_speedup"] < 1.0 / results[-1]["keep_frac"]
    assert reports(config, ended(), after_step=results[-2]["step"]) == results[-1:]
    with pytest.raises(RuntimeError, match="out of paper"):
        reports(config, ended(RuntimeError("out of paper")))


def test_a_validation_without_its_checkpoint_is_not_reported(tmp_path: Path) -> None:
    build_smoke_data(tmp_path)
    config = trained(tmp_path, "training.engine=torch")
    newest = max((config.folder / "checkpoints").glob("step-*"))
    newest.rename(newest.with_name(f".{newest.name}.draft"))
    assert reports(config, ended())[-1]["step"] < int(newest.name[-8:])


def test_a_copy_goes_on_as_the_one_that_it_was_copied_from(tmp_path: Path) -> None:
    """With the donor's settings the copy equals the donor bit for bit; others take effect."""
    build_smoke_data(tmp_path)
    donor = trained(tmp_path, "training.engine=torch", "name=s-00000")
    same, other = (
        smoke_config(
            tmp_path, tmp_path / "data", *VALIDATED, "training.engine=torch", f"name={name}", *more
        )
        for name, more in (("s-00001", ()), ("s-00002", ("training.learning_rate=1e-4",)))
    )
    pointer = {"trial": "s-00000", "run": "s-00000", "step": 4}
    for config in (same, other):
        copy = run_from(config, pointer)
        assert copy.name == f"{config.name}-from-00000-4"
        open_run(copy)
        train_here(copy)
        assert metric(copy, "train/loss")[:4] == metric(donor, "train/loss")[:4]
        if config is same:
            assert same_weights(last_weights(copy), last_weights(donor))
            assert metric(copy, "train/loss") == metric(donor, "train/loss")
        else:
            rates = metric(copy, "lr/backbone")
            assert rates[4] == pytest.approx(metric(donor, "lr/backbone")[4] * 1e-4 / 3e-3)
    # The next pointer of the copy names the copy's own run.
    mine = {"trial": "s-00001", "run": copy_name(same), "step": 6}
    assert run_from(same, mine).name == copy_name(same)


def copy_name(config: RunConfig) -> str:
    return f"{config.name}-from-00000-4"


def test_what_a_lost_trial_began_with_other_settings_is_set_aside(tmp_path: Path) -> None:
    config = smoke_config(tmp_path, tmp_path / "data", "name=s-00003")
    open_run(config)
    set_aside(config)
    assert config.folder.exists()
    set_aside(config.model_copy(update={"init_from": "another"}))
    (hidden,) = tmp_path.glob(".s-00003-*")
    assert not config.folder.exists()
    assert json.loads((hidden / "config.json").read_text())["name"] == "s-00003"
