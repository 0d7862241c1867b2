"""The command lines of the scripts in jobs/: their shared options, endings and exit codes."""

import argparse
import json
import os
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cluster.evaluation.evaluate import evaluation_config
from cluster.training.deepspeed_config import deepspeed_config
from cluster.training.failures import RunFailedError
from cluster.training.footprint import count_weights, footprint, touched_rows
from cluster.training.launch import RunStoppedError, launch_training
from skiprec.config.files import load_config
from skiprec.config.run import RunConfig
from skiprec.data.manifest import read_manifest
from skiprec.data.order import rank_slices
from skiprec.data.schema import MANIFEST_NAME
from skiprec.evaluation.report.text import terminal_cells, terminal_table
from skiprec.terminal import print_prose, print_table


def job_parser(description: str | None) -> argparse.ArgumentParser:
    """A parser that shows a script's docstring with its line breaks."""
    return argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )


def add_run(parser: argparse.ArgumentParser) -> None:
    """Adds the option `--run`."""
    parser.add_argument(
        "--run",
        type=Path,
        required=True,
        metavar="FOLDER",
        help="folder of a trained run, such as runs/smoke (required)",
    )


def add_overrides(parser: argparse.ArgumentParser, target: str, example: str) -> None:
    """Adds `--set KEY=VALUE`.

    Args:
        target: the settings that may be set, for the help text.
        example: one of them with a value.
    """
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help=f"set one of {target}, such as {example}; may be repeated (default: the values of the "
        "configuration)",
    )


def config_from_arguments(
    argv: list[str],
    description: str | None,
    derive: Callable[[RunConfig], RunConfig] = lambda config: config,
    default_config: str | None = None,
) -> RunConfig | None:
    """The configuration of `--config FILE --set key=value …`; None after `--dry-run` printed it.

    Args:
        derive: makes the configuration that runs from the one in the file, or raises ValueError.
        default_config: the file that is read without `--config`; None makes the option required.
    """
    parser = job_parser(description)
    parser.add_argument(
        "--config",
        type=Path,
        required=default_config is None,
        default=default_config and Path(default_config),
        metavar="FILE",
        help="TOML file with the configuration of the run, such as jobs/configs/smoke.toml "
        + (f"(default: {default_config})" if default_config else "(required)"),
    )
    add_overrides(parser, "the configuration's settings by its dotted key", "training.epochs=2")
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="print the complete configuration as JSON, with DeepSpeed's dictionary and the memory "
        "of a worker in GB, and stop (default: run)",
    )
    arguments = parser.parse_args(argv)
    config = derive(load_config(arguments.config, arguments.set))
    if arguments.dry_run:
        print(json.dumps(resolved(config), indent=1))
        return None
    warn_of_lost_outputs(config)
    return config


def train_job(
    argv: list[str], description: str | None, derive: Callable[[RunConfig], RunConfig]
) -> int:
    """Runs a job that trains one run, and prints its result; returns the exit code."""

    def train() -> None:
        config = config_from_arguments(argv, description, derive)
        if config is None:
            return
        result = launch_training(config)
        print(
            f"{result['name']}: best MRR@20 {result['best_mrr@20']:.4f} at step "
            f"{result['best_step']}; everything is in {config.folder}\n"
            f"evaluate it: python jobs/evaluate_speedup.py --run {config.folder}"
        )

    return run_job(train)


def train_policy_job(argv: list[str], description: str | None, kinds: tuple[str, ...]) -> int:
    """Runs a job that trains policies of some kinds; returns the exit code."""

    def with_policy(config: RunConfig) -> RunConfig:
        if config.policy.kind not in kinds:
            expected = " or ".join(repr(kind) for kind in kinds)
            raise ValueError(f"policy.kind is {config.policy.kind!r}; this job trains {expected}")
        return config

    return train_job(argv, description, with_policy)


def measure_job(
    argv: list[str],
    description: str | None,
    script: str,
    measure: Callable[[RunConfig, Path, str], Path],
    show: Callable[[Path], None],
) -> int:
    """Runs a job that measures a trained run, and shows its report; returns the exit code.

    Args:
        script: path of the job's script, for the command in the report's conditions.
        measure: gets the configuration, the run's folder and the command; writes the report.
        show: prints the report in the run's folder.
    """
    parser = job_parser(description)
    add_run(parser)
    add_overrides(
        parser,
        "the settings evaluation.*, cluster.* and data.* of the run",
        "evaluation.max_rows=1000",
    )
    arguments = parser.parse_args(argv)

    def measure_and_show() -> None:
        config = evaluation_config(arguments.run, arguments.set)
        measure(config, arguments.run, shlex.join(["python", script, *argv]))
        show(arguments.run)

    return run_job(measure_and_show)


def resolved(config: RunConfig) -> dict[str, Any]:
    """What `--dry-run` prints: the whole configuration and, if DeepSpeed is the engine, its
    dictionary. Where the dataset exists, also the memory and traffic of a worker in GB."""
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
    needs = footprint(config, weights, num_workers, touched)
    return {
        "held": {part: round(size / 1e9, 3) for part, size in needs.held.items()},
        "more_in_a_step": {part: round(size / 1e9, 3) for part, size in needs.in_step.items()},
        "peak_without_activations": round(needs.peak / 1e9, 3),
        "sent_in_a_step": round(needs.sent / 1e9, 3),
    }


def warn_of_lost_outputs(config: RunConfig) -> None:
    """Warns of a relative `root` in a Ray job, whose temporary working folder is deleted."""
    if "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ and not Path(config.root).is_absolute():
        print(
            f"warning: root={config.root!r} is relative and this job runs in Ray's temporary copy "
            f"of the working directory: results go to {config.folder.resolve()} and vanish with "
            "it. Give an absolute one: --set root=/shared/runs",
            file=sys.stderr,
        )


def print_report(run_folder: Path) -> None:
    """Prints the table and the statements of a run's report, and the paths of its files."""
    report = json.loads((run_folder / "report.json").read_text())
    print_table(terminal_cells(report), plain=terminal_table(report))
    for text in report["statements"]:
        print_prose(f"- {text}")
    pictures = ", ".join(sorted(path.name for path in run_folder.glob("*.png")))
    print(f"report:      {run_folder / 'report.md'} (beside it report.json, per_user.parquet)")
    print(f"pictures:    {pictures}")
    print(f"TensorBoard: tensorboard --logdir {run_folder / 'tensorboard'}")


def run_job(work: Callable[[], None]) -> int:
    """The exit code of a job whose work this is; an error is printed as one message.

    0: done. 1: the run failed. 2: an error that the user can correct. 3: the run was stopped.
    130: Ctrl-C, as in shells.
    """
    try:
        work()
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
