"""Trains a SkipRec-Gumbel policy with its backbone; two-stage when `init_from` names a backbone."""

import sys

from cluster.command_line import config_from_arguments, run_job
from cluster.train import launch_training


def main(argv: list[str]) -> int:
    def job() -> None:
        config = config_from_arguments(argv, __doc__ or "")
        if config is None:
            return
        if config.policy.kind != "gumbel":
            raise ValueError(f"policy.kind is {config.policy.kind!r}; this job trains 'gumbel'")
        result = launch_training(config)
        print(
            f"{result['name']}: best MRR@20 {result['best_mrr@20']:.4f} at step "
            f"{result['best_step']}; everything is in {config.folder}\n"
            f"evaluate it: python jobs/evaluate_speedup.py --run {config.folder}"
        )

    return run_job(job)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
