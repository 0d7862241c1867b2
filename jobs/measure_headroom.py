"""Measures, before a policy is trained, whether a depth of their own could gain users anything."""

import argparse
import shlex
import sys
from pathlib import Path

from cluster.command_line import run_job
from cluster.evaluation.evaluate import evaluation_config
from cluster.evaluation.headroom import measure_run, print_headroom


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
        command = shlex.join(["python", "jobs/measure_headroom.py", *argv])
        measure_run(config, arguments.run, command)
        print_headroom(arguments.run)

    return run_job(job)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
