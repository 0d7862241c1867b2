"""Trains a backbone under a policy that learns nothing: a control for learned policies."""

import sys

from cluster.command_line import train_policy_job
from skiprec.policy.kinds import OPTIONS


def main(argv: list[str]) -> int:
    controls = [
        kind for kind, options in OPTIONS.items() if options.decides and not options.is_learned
    ]
    return train_policy_job(argv, __doc__, tuple(controls))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
