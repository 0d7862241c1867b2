"""Demonstrates the whole method on grocery purchases, in minutes on two cores.

Builds the dataset, trains a backbone, trains a policy with it, evaluates the result, exports it,
and recommends products to three households.
"""

import json
import shlex
import shutil
import sys
import time
from pathlib import Path

from cluster.command_line import config_from_arguments, print_report, run_job
from cluster.evaluation.evaluate import evaluate_run
from cluster.evaluation.export import export_run
from cluster.machine.session import ray_session
from cluster.training.launch import launch_training
from skiprec.config.run import RunConfig, backbone_config
from skiprec.data.batching import evenly_spaced_rows
from skiprec.data.shards import ShardSet
from skiprec.inference import Recommender

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
        show_answers(config)
        print(
            "This is a demonstration: few products, few epochs, one seed, two cores. Results to "
            f"compare with are in docs/benchmarks. It took {time.monotonic() - started:.0f} s."
        )

    return run_job(train_and_evaluate)


def show_answers(config: RunConfig) -> None:
    """Exports the model anew and prints what it recommends to three households of the test rows."""
    folder = config.folder / "export"
    shutil.rmtree(folder, ignore_errors=True)
    export_run(config, config.folder, folder)
    recommender = Recommender.load(folder)
    shards = ShardSet.open(Path(config.data.path), "test")
    rows = shards.take(evenly_spaced_rows(shards.num_rows, 3)).items_RW
    histories = [[recommender.ids[item - 1] for item in row[:-1] if item] for row in rows]
    name_of = dict(zip(recommender.ids, recommender.names, strict=True))
    print(f"\nThe exported model, {folder}, recommends:")
    for history, answer in zip(
        histories, recommender.recommend(histories, k=3, explain=True), strict=True
    ):
        kept, blocks = len(answer.kept_blocks or ()), recommender.spec.shape["blocks"]
        before, after = (
            "; ".join(name_of.get(item) or item for item in items)
            for items in (history[-3:], answer.items)
        )
        print(f"  after … {before}\n    {after} ({kept} of {blocks} blocks ran)")
    body = json.dumps({"histories": [histories[0][-3:]], "k": 3})
    print(
        f"serve it: python jobs/serve_model.py --model {folder}\n"
        f"and ask:  curl -s localhost:8080/v1/recommend -d {shlex.quote(body)}\n"
        "or open:  http://localhost:8080, a page on which you put histories together\n"
        f"look at the run: python jobs/show_run.py --run {folder.parent}"
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
