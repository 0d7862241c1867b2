"""Pretrains the backbone of a configuration: every block, no policy (stage one of two)."""

import sys

from cluster.command_line import config_from_arguments, run_job
from cluster.training.launch import launch_training
from skiprec.config.run import backbone_config


def main(argv: list[str]) -> int:
    def job() -> None:
        config = config_from_arguments(argv, __doc__ or "", derive=backbone_config)
        if config is not None:
            result = launch_training(config)
            print(
                f"backbone {result['name']}: best MRR@20 {result['best_mrr@20']:.4f} at step "
                f"{result['best_step']}; everything is in {config.folder}"
            )

    return run_job(job)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
