"""Trains a baseline: a network without blocks to skip, with which studies compare."""

import sys

from cluster.command_line import train_job
from skiprec.config.run import RunConfig
from skiprec.models.registry import BASELINES


def baseline_config(config: RunConfig) -> RunConfig:
    """Returns `config` unchanged.

    Raises:
        ValueError: its network is no baseline.
    """
    name = config.model.backbone
    if name not in BASELINES:
        raise ValueError(
            f"model.backbone={name!r} is no baseline; this job trains {', '.join(BASELINES)}; "
            "for a backbone there is jobs/pretrain_backbone.py"
        )
    return config


def main(argv: list[str]) -> int:
    return train_job(argv, __doc__, baseline_config)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
