"""Trains a SkipRec-Gumbel policy with its backbone; two-stage when `init_from` names a backbone."""

import sys

from cluster.command_line import train_policy_job


def main(argv: list[str]) -> int:
    return train_policy_job(argv, __doc__ or "", ("gumbel",))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
