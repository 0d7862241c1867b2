"""Demonstrates the whole method on grocery purchases, in minutes on two cores.

Builds the dataset, trains a backbone, trains a policy with it, and evaluates the result.
"""

import sys
import time

from cluster.command_line import config_from_arguments, print_report, run_job
from cluster.evaluation.evaluate import evaluate_run
from cluster.machine.session import ray_session
from cluster.training.launch import launch_training
from skiprec.config.run import backbone_config

CONFIG = "jobs/configs/quickstart.toml"


def main(argv: list[str]) -> int:
    def train_and_evaluate() -> None:
        started = time.monotonic()
        config = config_from_arguments(argv, __doc__, default_config=CONFIG)
        if config is None:
            return
        with ray_session():
            launch_training(backbone_config(config))
            launch_training(config)
            evaluate_run(config, config.folder, "make quickstart")
        print_report(config.folder)
        print(
            "This is a demonstration: few products, few epochs, one seed, two cores. Results to "
            f"compare with are in docs/benchmarks. It took {time.monotonic() - started:.0f} s."
        )

    return run_job(train_and_evaluate)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
