"""Runs a sweep over the settings of policies: Ray Tune starts trials, Ray Train trains each one."""

import json
import os
import random
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import ray
from ray import tune
from ray.tune.schedulers import (
    AsyncHyperBandScheduler,
    FIFOScheduler,
    PopulationBasedTraining,
    TrialScheduler,
)
from ray.tune.search import BasicVariantGenerator, SearchAlgorithm, Searcher
from ray.tune.search.optuna import OptunaSearch

from cluster.machine.room import places, wait_for_room, worker_resources
from cluster.machine.session import ray_session
from cluster.runs.data import ensure_data
from cluster.runs.folder import lease, provenance
from cluster.sweeps.results import Ledger, publish_sweep
from cluster.sweeps.sweep import KIND, Range, Space, SweepConfig, trial_config
from cluster.sweeps.trial import SweepPlan, SweepTrial
from cluster.training.build import build_network
from cluster.training.launch import check_inputs
from skiprec.config.cluster import ClusterConfig
from skiprec.config.files import changed_keys, parse_config
from skiprec.config.run import RunConfig
from skiprec.data.halves import rows_to_train
from skiprec.data.shards import ShardSet
from skiprec.durable import write_text_durably
from skiprec.terminal import moving_line, part_of, say

DRIVER = {"node:__internal_head__": 0.001}  # The driver of a trial needs no CPU.


def run_sweep(sweep: SweepConfig, trees: dict[str, dict[str, Any]], command: str) -> Path:
    """Runs every trial that has not ended yet, publishes the results, returns the sweep's folder.

    Args:
        trees: the base configuration for each kind of policy that is searched.
        command: the user's command, which the results name.

    Raises:
        ValueError: anything a user can fix.
    """
    base = parse_config(next(iter(trees.values())), "the sweep's configuration")
    home = base.model_copy(update={"name": sweep.name})
    with lease(home):
        plan = _open_sweep(sweep, trees, home, command)
        with ray_session(with_dashboard=True):
            limit = _concurrent_trials(sweep, base.cluster)
            _search(plan, home, limit)
            say(f"[{sweep.name}] trials have ended; evaluating, one by one")
            publish_sweep(sweep, base.root, home.folder, command)
    return home.folder


def _open_sweep(
    sweep: SweepConfig, trees: dict[str, dict[str, Any]], home: RunConfig, command: str
) -> SweepPlan:
    """Checks the configurations of possible trials and writes `sweep.json`.

    Raises:
        ValueError: a trial could not run, or the sweep's folder holds another sweep.
    """
    ensure_data(home.data)
    shards = ShardSet.open(Path(home.data.path), "train")
    num_rows = {
        fit_on: rows_to_train(
            Path(home.data.path), home.training.model_copy(update={"fit_on": fit_on})
        ).num_rows
        for fit_on in _fits(sweep, trees)
    }
    dimensions = sweep.dimensions(list(trees))
    corners = [
        trial_config(sweep, trees, drawn, sweep.name, num_rows)
        for drawn in _corners(dimensions, list(trees))
    ]
    for config in corners:
        check_inputs(config)
    if sweep.scheduler == "pbt":
        _check_copies(corners, shards.num_items)
    plan = SweepPlan(sweep, trees, num_rows, shards.num_items, shards.window - 1, str(Path.cwd()))
    saved = home.folder / "sweep.json"
    settings = {"sweep": sweep.model_dump(mode="json"), "configurations": trees}
    if saved.exists():
        old = json.loads(saved.read_text())
        changes = changed_keys(
            {key: old[key] for key in settings}, json.loads(json.dumps(settings))
        )
        if changes:
            raise ValueError(
                f"sweep {sweep.name!r} in {home.folder} was started with other settings:\n  "
                + "\n  ".join(changes)
                + "\nchoose another name for the sweep, or set the old values to resume it"
            )
    else:
        number = "[0-9a-f]" * (8 if sweep.searcher == "optuna" else 5)
        names = f"{sweep.name}-{number}"
        taken = sorted(path.name for path in Path(home.root).glob(names))
        if taken:
            raise ValueError(
                f"trials of sweep {sweep.name!r} would be runs like {taken[0]!r}, which already "
                "exists; choose another name for the sweep"
            )
        record = settings | {"command": command} | provenance(home)
        write_text_durably(saved, json.dumps(record, indent=1))
    return plan


def _corners(dimensions: Space, kinds: list[str]) -> Iterator[dict[str, Any]]:
    """Settings to check before the sweep starts: one dimension varies, the others stay.

    A dimension takes each of its choices, or the ends of its range and a number between them that
    is not a whole number. The other dimensions stay at their first value.
    """
    values = {
        key: [value.low, value.low + (value.high - value.low) / np.e, value.high]
        if isinstance(value, Range)
        else list(value)
        for key, value in dimensions.items()
    }
    first = {key: choices[0] for key, choices in values.items()}
    for kind in kinds:
        start = first | ({KIND: kind} if len(kinds) > 1 else {})
        for key, choices in values.items():
            for value in choices:
                yield start | {key: value}


def _fits(sweep: SweepConfig, trees: dict[str, dict[str, Any]]) -> set[str | None]:
    """The values of `training.fit_on` that a trial may have."""
    spaces = (sweep.space, *sweep.space_of.values())
    searched = [space.get("training.fit_on", ()) for space in spaces]
    of_trees = [tree.get("training", {}).get("fit_on") for tree in trees.values()]
    return {*of_trees, *(value for choices in searched for value in choices)}


def _check_copies(corners: list[RunConfig], num_items: int) -> None:
    """Checks that PBT can copy each trial into each other one.

    PBT copies weights, optimizer state and the position in the data, so trials may not differ in
    settings that change these.

    Raises:
        ValueError: the space changes such a setting.
    """

    def copied_state(config: RunConfig) -> dict[str, Any]:
        weights = build_network(config, num_items).state_dict()
        training = config.training
        return {
            "policy.kind": config.policy.kind,
            "training.seed": training.seed,
            "training.global_batch_rows": training.global_batch_rows,
            "training.precision": training.precision,
            "training.freeze_backbone": training.freeze_backbone,
            "a network's weights": {name: tuple(weight.shape) for name, weight in weights.items()},
        }

    first = copied_state(corners[0])
    for config in corners[1:]:
        for key, value in copied_state(config).items():
            if value != first[key]:
                raise ValueError(
                    f"scheduler='pbt' copies trials into each other, but the space changes {key}; "
                    "remove that key from the space, or use another scheduler"
                )


def _concurrent_trials(sweep: SweepConfig, cluster: ClusterConfig) -> int:
    """The number of trials to run at once: `concurrent_trials`, or as many as there is room for.

    Waits until the cluster has room for `concurrent_trials`, or for one trial.

    Raises:
        ValueError: the cluster has no room for so many.
    """
    worker, workers = worker_resources(cluster), max(1, cluster.num_workers)
    least = sweep.concurrent_trials or 1
    wanted = (
        f"workers of {least} trial(s) at once (concurrent_trials of the sweep, "
        "cluster.num_workers, cluster.threads_per_worker)"
    )
    wait_for_room(sweep.name, worker, least * workers, wanted, cluster.room_timeout_s)
    room = places(worker, ray.nodes())  # type: ignore[no-untyped-call]
    return sweep.concurrent_trials or room // workers


def _search(plan: SweepPlan, home: RunConfig, limit: int) -> None:
    """Runs the trials, or resumes them from Tune's state in the sweep's folder."""
    sweep, state = plan.sweep, home.folder.resolve() / "tune"
    random.seed(sweep.seed)  # Ray's PBT draws from these two generators.
    np.random.seed(sweep.seed)
    if sweep.scheduler == "pbt" and sweep.num_trials > limit:
        raise ValueError(
            f"scheduler='pbt' trains all num_trials={sweep.num_trials} trials at once, but Ray has "
            f"room for {limit}; set num_trials={limit}, or concurrent_trials={sweep.num_trials} "
            "on a cluster that grows"
        )
    with _quiet_tune():
        trainable = tune.with_resources(
            tune.with_parameters(SweepTrial, plan=plan), _resources(home.cluster)
        )
        if tune.Tuner.can_restore(str(state)):
            say(f"[{sweep.name}] goes on with its trials")
            tuner = tune.Tuner.restore(
                str(state), trainable, resume_unfinished=True, resume_errored=True
            )
        else:
            say(f"[{sweep.name}] {sweep.num_trials} trials, {limit} at a time")
            tuner = _new_tuner(plan, home, trainable, state, limit)
        with part_of(sweep.name), moving_line(text="starting trials"):
            tuner.fit()


def _new_tuner(
    plan: SweepPlan, home: RunConfig, trainable: Any, state: Path, limit: int
) -> tune.Tuner:
    sweep = plan.sweep
    dimensions = sweep.dimensions(list(plan.trees))
    searcher = _searcher(sweep)
    metric, mode = (sweep.objectives[0], "max") if len(sweep.objectives) == 1 else (None, None)
    return tune.Tuner(
        trainable,
        param_space={key: _domain(values) for key, values in dimensions.items()},
        tune_config=tune.TuneConfig(
            metric=metric,
            mode=mode,
            search_alg=searcher,
            scheduler=_scheduler(sweep, dimensions),
            num_samples=sweep.num_trials,
            max_concurrent_trials=limit,
            trial_name_creator=partial(_trial_name, sweep.name),
            trial_dirname_creator=partial(_trial_name, sweep.name),
            reuse_actors=False,
        ),
        run_config=tune.RunConfig(
            name=state.name,
            storage_path=str(state.parent),
            callbacks=[Ledger(plan, home.root, home.folder.resolve())],
            failure_config=tune.FailureConfig(max_failures=1),
            checkpoint_config=tune.CheckpointConfig(checkpoint_frequency=1),
            verbose=0,
        ),
    )


def _trial_name(sweep: str, trial: Any) -> str:
    return f"{sweep}-{trial.trial_id.rpartition('_')[2]}"


def _domain(values: Any) -> Any:
    if isinstance(values, Range):
        return (tune.loguniform if values.log else tune.uniform)(values.low, values.high)
    return tune.choice(list(values))


def _searcher(sweep: SweepConfig) -> Searcher | SearchAlgorithm:
    if sweep.searcher == "random":
        return BasicVariantGenerator(random_state=sweep.seed)
    names: list[str] = list(sweep.objectives)
    return OptunaSearch(
        metric=names if len(names) > 1 else names[0],
        mode=["max"] * len(names) if len(names) > 1 else "max",
        seed=sweep.seed,
    )


def _scheduler(sweep: SweepConfig, dimensions: Space) -> TrialScheduler:
    if sweep.scheduler == "asha":
        assert sweep.grace_samples is not None
        return AsyncHyperBandScheduler(
            time_attr="samples",
            max_t=sweep.max_samples,
            grace_period=sweep.grace_samples,
            reduction_factor=sweep.reduction_factor,
            stop_last_trials=False,  # A run ends by itself and writes its result.
        )
    if sweep.scheduler == "pbt":
        assert sweep.perturb_samples is not None
        return PopulationBasedTraining(
            time_attr="samples",
            perturbation_interval=sweep.perturb_samples,
            hyperparam_mutations={
                key: _domain(values) if isinstance(values, Range) else list(values)
                for key, values in dimensions.items()
            },
            custom_explore_fn=sweep.within,
            synch=True,
        )
    return FIFOScheduler()  # type: ignore[no-untyped-call]


def _resources(cluster: ClusterConfig) -> dict[str, float]:
    if cluster.num_workers:
        return DRIVER
    return {"CPU": float(cluster.threads_per_worker), "GPU": float(cluster.use_gpu)}


@contextmanager
def _quiet_tune() -> Iterator[None]:
    """Turns off Tune's loggers, console and handling of Ctrl-C inside the block.

    The ledger and the runs' own files replace the loggers and the console. On Ctrl-C the sweep must
    end; Tune would catch it and return as if all trials had ended.
    """
    quiet = {
        "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
        "RAY_AIR_NEW_OUTPUT": "0",
        "TUNE_DISABLE_SIGINT_HANDLER": "1",
    }
    before = {key: os.environ.get(key) for key in quiet}
    os.environ.update(quiet)
    try:
        yield
    finally:
        for key, value in before.items():
            if value is None:
                del os.environ[key]
            else:
                os.environ[key] = value
