"""Runs a study: a list of configurations with seeds, one table in the columns of the slides.

Interrupt it and give the same command again: it goes on with what has no result yet. Given in two
terminals at once, the two share the runs.
"""

import argparse
import shlex
import sys
from pathlib import Path

from cluster.command_line import run_job
from cluster.studies.run import run_study

STUDIES = Path("jobs/studies")


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--study", required=True, help="a name in jobs/studies")
    parser.add_argument("--results", type=Path, help="default: runs/studies/<study>")
    parser.add_argument("--seeds", type=int, nargs="+", help="default: those of the study")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="override a dotted key of every configuration",
    )
    arguments = parser.parse_args(argv)
    results = arguments.results or Path("runs/studies") / arguments.study
    all_succeeded = True

    def job() -> None:
        nonlocal all_succeeded
        command = shlex.join(["python", "jobs/run_study.py", *argv])
        path = STUDIES / f"{arguments.study}.toml"
        seeds = tuple(arguments.seeds or ())
        all_succeeded = run_study(path, results, arguments.set, command, seeds)
        print((results / "table.md").read_text())
        print(f"table, results and figures: {results}")

    return run_job(job) or int(not all_succeeded)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
