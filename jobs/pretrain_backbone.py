"""Trains the backbone of a configuration with all its blocks and no policy.

This is the first of two stages. The second one, the training of a policy, starts from its weights.
The configuration is that of the backbone, or that of the policy; then `init_from` names the run.
"""

import sys

from cluster.command_line import train_job
from skiprec.config.run import backbone_config


def main(argv: list[str]) -> int:
    return train_job(argv, __doc__, backbone_config)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
