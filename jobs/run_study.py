"""Runs a study: trains and evaluates several configurations with seeds, and writes one table.

If you interrupt a study, give the same command again: runs with a result are not repeated.
If you give the command in two terminals at once, the two share the runs.
"""

import shlex
import sys
from pathlib import Path

from cluster.command_line import add_overrides, job_parser, run_job
from cluster.studies.run import run_study
from skiprec.terminal import print_markdown

STUDIES = Path("jobs/studies")


def main(argv: list[str]) -> int:
    parser = job_parser(__doc__)
    parser.add_argument(
        "--study",
        required=True,
        metavar="NAME",
        help="name of a file in jobs/studies without .toml, such as main (required)",
    )
    parser.add_argument(
        "--results",
        type=Path,
        metavar="FOLDER",
        help="folder for the table, the results and the figures (default: runs/studies/NAME)",
    )
    parser.add_argument(
        "--seeds",
        type=int,
        nargs="+",
        metavar="SEED",
        help="seeds to run each configuration with (default: the seeds of the study)",
    )
    add_overrides(parser, "the settings of every configuration", "training.epochs=2")
    arguments = parser.parse_args(argv)
    results = arguments.results or Path("runs/studies") / arguments.study
    all_succeeded = True

    def run_and_show() -> None:
        nonlocal all_succeeded
        command = shlex.join(["python", "jobs/run_study.py", *argv])
        path = STUDIES / f"{arguments.study}.toml"
        seeds = tuple(arguments.seeds or ())
        all_succeeded = run_study(path, results, arguments.set, command, seeds)
        print_markdown((results / "table.md").read_text())
        print(f"table, results and figures: {results}")

    return run_job(run_and_show) or int(not all_succeeded)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
