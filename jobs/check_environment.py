"""Says what is installed, what this machine has, and what would make a run hang or fail."""

import argparse
import sys
from pathlib import Path

from cluster.machine import environment


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--components",
        action="store_true",
        help="print the names of backbones, policies, studies, … as JSON instead",
    )
    arguments = parser.parse_args(argv)
    return environment.main(arguments.components, Path(__file__).resolve().parent.parent)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
