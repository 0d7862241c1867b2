"""Searches for good settings of a policy over a pretrained backbone, with Ray Tune.

Each trial is a run like those of the other jobs. If you interrupt a search, give the same command
again: it goes on.
"""

import shlex
import sys
from pathlib import Path
from typing import Any

from cluster.command_line import add_overrides, job_parser, run_job, warn_of_lost_outputs
from cluster.sweeps.search import run_sweep
from cluster.sweeps.sweep import load_sweep
from skiprec.config.files import apply_overrides, parse_config, read_tree
from skiprec.terminal import print_markdown


def main(argv: list[str]) -> int:
    parser = job_parser(__doc__)
    parser.add_argument(
        "--config",
        type=Path,
        action="append",
        required=True,
        metavar="FILE",
        help="TOML file with the configuration that the trials start from; may be repeated, once "
        "for each kind of policy (required)",
    )
    parser.add_argument(
        "--sweep",
        type=Path,
        required=True,
        metavar="FILE",
        help="TOML file with the space, the searcher and the scheduler, such as "
        "jobs/configs/sweep_asha.toml (required)",
    )
    add_overrides(parser, "the settings of every configuration", "training.epochs=2")
    arguments = parser.parse_args(argv)

    def search_and_show() -> None:
        trees: dict[str, dict[str, Any]] = {}
        for path in arguments.config:
            tree = apply_overrides(read_tree(path), arguments.set)
            config = parse_config(tree, str(path))
            warn_of_lost_outputs(config)
            kind = config.policy.kind
            if kind in trees:
                raise ValueError(
                    f"{path} has policy.kind={kind!r}, as an earlier --config has; give each kind "
                    "of policy once"
                )
            trees[kind] = tree
        command = shlex.join(["python", "jobs/tune_policy.py", *argv])
        folder = run_sweep(load_sweep(arguments.sweep), trees, command)
        print_markdown((folder / "table.md").read_text())
        print(f"best configuration: {folder / 'best.toml'} (beside it trials.jsonl, pareto.png)")
        print(f"TensorBoard:        tensorboard --logdir {folder / 'tensorboard'}")

    return run_job(search_and_show)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
