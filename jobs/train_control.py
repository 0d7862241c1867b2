"""Trains a backbone under a policy that learns nothing: a control for learned policies."""

import sys

from cluster.command_line import train_policy_job


def main(argv: list[str]) -> int:
    return train_policy_job(argv, __doc__, ("keep_all", "random", "fixed"))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
