"""Prints the installed versions, the machine's resources and the problems that a run would meet.

The exit code is 1 if there is a problem.
"""

import sys
from pathlib import Path

from cluster.command_line import job_parser
from cluster.machine import environment


def main(argv: list[str]) -> int:
    parser = job_parser(__doc__)
    parser.add_argument(
        "--components",
        action="store_true",
        help="print the names of backbones, policies, studies and other components as JSON "
        "(default: print the versions, resources and problems)",
    )
    arguments = parser.parse_args(argv)
    return environment.main(arguments.components, Path(__file__).resolve().parent.parent)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
