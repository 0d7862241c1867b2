"""Trains a baseline, a network without blocks to skip: the rows that a study compares with."""

import sys

from cluster.command_line import config_from_arguments, run_job
from cluster.training.launch import launch_training
from skiprec.config.run import RunConfig
from skiprec.models.registry import BASELINES


def baseline_config(config: RunConfig) -> RunConfig:
    """`config` as it is.

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
    def job() -> None:
        config = config_from_arguments(argv, __doc__ or "", derive=baseline_config)
        if config is not None:
            result = launch_training(config)
            print(
                f"{result['name']}: best MRR@20 {result['best_mrr@20']:.4f} at step "
                f"{result['best_step']}; everything is in {config.folder}\n"
                f"evaluate it: python jobs/evaluate_speedup.py --run {config.folder}"
            )

    return run_job(job)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
