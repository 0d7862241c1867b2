"""Evaluates a trained run: accuracy, kept blocks and measured speedups, beside the controls.

Writes report.md, report.json, per_user.parquet and pictures into the folder of the run.
"""

import sys

from cluster.command_line import measure_job, print_report
from cluster.evaluation.evaluate import evaluate_run


def main(argv: list[str]) -> int:
    return measure_job(argv, __doc__, "jobs/evaluate_speedup.py", evaluate_run, print_report)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
