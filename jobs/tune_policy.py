"""Searches a policy's settings over a pretrained backbone; Ray Tune over the runs of the jobs.

Interrupt it and give the same command again: it goes on.
"""

import argparse
import shlex
import sys
from pathlib import Path
from typing import Any

from cluster.command_line import run_job, warn_of_lost_outputs
from cluster.sweeps.search import run_sweep
from cluster.sweeps.sweep import load_sweep
from skiprec.config.files import apply_overrides, parse_config, read_tree


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--config",
        type=Path,
        action="append",
        required=True,
        help="what the trials start from; given again, for another kind of policy",
    )
    parser.add_argument("--sweep", type=Path, required=True, help="jobs/configs/sweep_*.toml")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="override a dotted key of every configuration",
    )
    arguments = parser.parse_args(argv)

    def job() -> None:
        trees: dict[str, dict[str, Any]] = {}
        for path in arguments.config:
            tree = apply_overrides(read_tree(path), arguments.set)
            config = parse_config(tree, str(path))
            warn_of_lost_outputs(config)
            kind = config.policy.kind
            if kind in trees:
                raise ValueError(
                    f"{path} has policy.kind={kind!r}, as one before it; expected others"
                )
            trees[kind] = tree
        command = shlex.join(["python", "jobs/tune_policy.py", *argv])
        folder = run_sweep(load_sweep(arguments.sweep), trees, command)
        print((folder / "table.md").read_text())
        print(f"best configuration: {folder / 'best.toml'} (beside it trials.jsonl, pareto.png)")
        print(f"TensorBoard:        tensorboard --logdir {folder / 'tensorboard'}")

    return run_job(job)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
