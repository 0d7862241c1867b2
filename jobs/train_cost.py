"""Trains a policy that predicts costs, with its backbone; its knob turns at serving time."""

import sys

from cluster.command_line import train_policy_job


def main(argv: list[str]) -> int:
    return train_policy_job(argv, __doc__ or "", ("cost",))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
