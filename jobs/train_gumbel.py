"""Trains a backbone and a SkipRec-Gumbel policy.

If the configuration sets `init_from`, training starts from that pretrained backbone.
"""

import sys

from cluster.command_line import train_policy_job


def main(argv: list[str]) -> int:
    return train_policy_job(argv, __doc__, ("gumbel",))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
