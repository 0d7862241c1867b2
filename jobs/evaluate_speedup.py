"""Evaluates a run: accuracy of all arms, kept blocks, speedups by the clock; writes its report."""

import argparse
import shlex
import sys
from pathlib import Path

from cluster.command_line import print_report, run_job
from cluster.evaluation.evaluate import evaluate_run, evaluation_config


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", type=Path, required=True, help="the folder of a trained run")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="override evaluation.*, cluster.* or data.*",
    )
    arguments = parser.parse_args(argv)

    def job() -> None:
        config = evaluation_config(arguments.run, arguments.set)
        command = shlex.join(["python", "jobs/evaluate_speedup.py", *argv])
        evaluate_run(config, arguments.run, command)
        print_report(arguments.run)

    return run_job(job)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
