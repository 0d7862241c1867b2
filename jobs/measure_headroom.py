"""Measures how much accuracy a depth of their own could bring users, before a policy is trained.

Writes headroom.md, headroom.json and headroom.png into the folder of the run.
"""

import sys

from cluster.command_line import measure_job
from cluster.evaluation.headroom import measure_run, print_headroom


def main(argv: list[str]) -> int:
    return measure_job(argv, __doc__, "jobs/measure_headroom.py", measure_run, print_headroom)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
