"""The command line that all training jobs share."""

import argparse
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cluster.training.deepspeed_config import deepspeed_config
from cluster.training.failures import RunFailedError
from cluster.training.footprint import count_weights, footprint, touched_rows
from cluster.training.launch import RunStoppedError, launch_training
from skiprec.config.files import load_config
from skiprec.config.run import RunConfig
from skiprec.data.manifest import read_manifest
from skiprec.data.order import rank_slices
from skiprec.data.schema import MANIFEST_NAME
from skiprec.evaluation.report.text import terminal_table


def config_from_arguments(
    argv: list[str], description: str, derive: Callable[[RunConfig], RunConfig] = lambda c: c
) -> RunConfig | None:
    """The configuration of `--config FILE --set key=value …`; None after `--dry-run` printed it."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--config", type=Path, required=True, help="a TOML file of jobs/configs")
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="override a dotted key"
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="print the resolved configuration and stop"
    )
    arguments = parser.parse_args(argv)
    config = derive(load_config(arguments.config, arguments.set))
    if arguments.dry_run:
        print(json.dumps(resolved(config), indent=1))
        return None
    warn_of_lost_outputs(config)
    return config


def train_policy_job(argv: list[str], description: str, kinds: tuple[str, ...]) -> int:
    """The whole of a job that trains policies of some kinds; its exit code."""

    def of_this_job(config: RunConfig) -> RunConfig:
        if config.policy.kind not in kinds:
            expected = " or ".join(repr(kind) for kind in kinds)
            raise ValueError(f"policy.kind is {config.policy.kind!r}; this job trains {expected}")
        return config

    def job() -> None:
        config = config_from_arguments(argv, description, of_this_job)
        if config is None:
            return
        result = launch_training(config)
        print(
            f"{result['name']}: best MRR@20 {result['best_mrr@20']:.4f} at step "
            f"{result['best_step']}; everything is in {config.folder}\n"
            f"evaluate it: python jobs/evaluate_speedup.py --run {config.folder}"
        )

    return run_job(job)


def resolved(config: RunConfig) -> dict[str, Any]:
    """What would run: the whole configuration; if DeepSpeed is the engine, its dictionary, and
    what a worker will need where the data is there already."""
    training, cluster = config.training, config.cluster
    if training.engine == "torch":
        return {"config": config.model_dump(mode="json"), "deepspeed": None}
    passes = len(
        rank_slices(training.global_batch_rows, cluster.num_workers, 0, training.micro_batch_rows)
    )
    return {
        "config": config.model_dump(mode="json"),
        "deepspeed": deepspeed_config(training, cluster, passes, cluster.num_workers),
        "worker_gb": _footprint_gb(config),
    }


def _footprint_gb(config: RunConfig) -> dict[str, Any] | None:
    data = Path(config.data.path)
    if not (data / MANIFEST_NAME).exists():
        return None
    manifest, num_workers = read_manifest(data), config.cluster.num_workers
    weights = count_weights(config, manifest.num_items)
    touched = touched_rows(config, weights, num_workers, manifest.window - 1)
    found = footprint(config, weights, num_workers, touched)
    return {
        "held": {what: round(size / 1e9, 3) for what, size in found.held.items()},
        "more_in_a_step": {what: round(size / 1e9, 3) for what, size in found.in_step.items()},
        "peak_without_activations": round(found.peak / 1e9, 3),
        "sent_in_a_step": round(found.sent / 1e9, 3),
    }


def warn_of_lost_outputs(config: RunConfig) -> None:
    """`ray job submit --working-dir` runs in a temporary copy; relative outputs go with it."""
    if "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ and not Path(config.root).is_absolute():
        print(
            f"warning: root={config.root!r} is relative and this job runs in Ray's temporary copy "
            f"of the working directory: results go to {config.folder.resolve()} and vanish with "
            "it. Give an absolute one: --set root=/shared/runs",
            file=sys.stderr,
        )


def print_report(run_folder: Path) -> None:
    """The table of a run's report, what it says in words, and where the rest is."""
    report = json.loads((run_folder / "report.json").read_text())
    print(terminal_table(report))
    for text in report["statements"]:
        print(f"- {text}")
    pictures = ", ".join(sorted(path.name for path in run_folder.glob("*.png")))
    print(f"report:      {run_folder / 'report.md'} (beside it report.json, per_user.parquet)")
    print(f"pictures:    {pictures}")
    print(f"TensorBoard: tensorboard --logdir {run_folder / 'tensorboard'}")


def run_job(job: Callable[[], None]) -> int:
    """Exit code of a job, with one message: 2 for what a user can mend, 3 stopped, 1 failed, and
    130 for Ctrl-C, as shells have it."""
    try:
        job()
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except RunStoppedError as error:
        print(error, file=sys.stderr)
        return 3
    except RunFailedError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted; the same command goes on", file=sys.stderr)
        return 130
    return 0
