"""Trains a backbone and a policy that predicts what skipping costs each user.

The share of kept blocks can be set anew when the network serves users. If the configuration sets
`init_from`, training starts from that pretrained backbone.
"""

import sys

from cluster.command_line import train_policy_job


def main(argv: list[str]) -> int:
    return train_policy_job(argv, __doc__, ("cost",))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
