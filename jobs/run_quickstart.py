"""Goes the way of docs/depth.md on grocery purchases, in minutes on two cores.

Asks the data whether order tells anything, trains networks of 2 and of 16 blocks and one network
for every depth, asks that one what a depth of their own could gain users, trains the policy that
reads its state after two blocks, exports the result and recommends products to three households.
Ends with what it found for this data.
"""

import argparse
import json
import shlex
import shutil
import sys
import time
from pathlib import Path

import pyarrow.parquet as pq

from cluster.command_line import add_overrides, job_parser, print_report, run_job
from cluster.evaluation.evaluate import evaluate_run
from cluster.evaluation.export import export_run
from cluster.evaluation.headroom import measure_run
from cluster.machine.session import ray_session
from cluster.runs.data import ensure_data
from cluster.studies.table import against
from cluster.training.launch import launch_training
from skiprec.config.files import load_config
from skiprec.config.run import RunConfig
from skiprec.data.batching import evenly_spaced_rows
from skiprec.data.shards import ShardSet
from skiprec.evaluation.measure.arms import FULL_BACKBONE
from skiprec.evaluation.order.measure import measure_order
from skiprec.evaluation.order.report import order_report, order_table
from skiprec.evaluation.report.findings import advice, depth_verdict, knob_table
from skiprec.evaluation.report.schema import Report
from skiprec.inference import Recommender
from skiprec.terminal import print_markdown, print_prose

CONFIGS = Path("jobs/configs/quickstart")
COMMAND = "make quickstart"
ORDER_ROWS, ORDER_ITEMS = 20_000, 30_000_000


def main(argv: list[str]) -> int:
    return run_job(lambda: quickstart(parse_arguments(argv).set))


def parse_arguments(argv: list[str]) -> argparse.Namespace:
    parser = job_parser(__doc__)
    add_overrides(parser, "the settings of every configuration", "training.epochs=1")
    return parser.parse_args(argv)


def quickstart(overrides: list[str]) -> None:
    started = time.monotonic()
    two_blocks = ["model.num_blocks=2", "name=quickstart-2"]
    shallow, deep, exits, policy = (
        load_config(CONFIGS / f"{file}.toml", [*more, *overrides])
        for file, more in (
            ("nextitnet_plus", two_blocks),
            ("nextitnet_plus", []),
            ("exits", []),
            ("cost_state", []),
        )
    )
    ensure_data(policy.data)
    print_step("Does order tell anything?")
    order = ask_order(Path(policy.data.path))
    print_step("Is a deep network ahead of a shallow one?")
    with ray_session():
        verdict = compare_depths(shallow, deep)
        print_step("What do the exits of one network reach, and what could users gain?")
        launch_training(exits)
        headroom = json.loads(measure_run(exits, exits.folder, COMMAND).read_text())
        for sentence in headroom["statements"]:
            print_prose(sentence)
        print_step("Does a policy find out who needs depth?")
        report = train_and_evaluate(policy)
    print_report(policy.folder)
    show_answers(policy)
    print_step("What this data said")
    for sentence in (order, verdict):
        print_prose(f"- {sentence}")
    print_markdown("\n".join(knob_table(report)))
    print_prose(f"- {advice(report, verdict)}")
    print_prose(
        "This is a demonstration: few products, few epochs, one seed, two cores. Results to "
        f"compare with are in docs/benchmarks. It took {time.monotonic() - started:.0f} s."
    )


def print_step(question: str) -> None:
    print(f"\n== {question}")


def ask_order(data: Path) -> str:
    """Prints what counting says about order, and returns it in one sentence."""
    report = order_report(measure_order(data, "test", ORDER_ROWS, ORDER_ITEMS), {})
    print_markdown("\n".join(order_table(report)))
    return report["statement"]


def compare_depths(shallow: RunConfig, deep: RunConfig) -> str:
    """Trains both networks, prints which one is ahead, and returns it in one sentence."""
    reports = [train_and_evaluate(config) for config in (shallow, deep)]
    tables = [pq.read_table(config.folder / "per_user.parquet") for config in (shallow, deep)]
    difference = against(tables[1], tables[0], FULL_BACKBONE)[FULL_BACKBONE.name]
    verdict = depth_verdict(reports[0], reports[1], difference)
    print_prose(verdict)
    return verdict


def train_and_evaluate(config: RunConfig) -> Report:
    launch_training(config)
    report: Report = json.loads(evaluate_run(config, config.folder, COMMAND).read_text())
    return report


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
    python = python_of_this()
    print(
        f"serve it: {python} jobs/serve_model.py --model {folder}\n"
        f"and ask:  curl -s localhost:8080/v1/recommend -d {shlex.quote(body)}\n"
        "or open:  http://localhost:8080, a page on which you put histories together\n"
        f"look at the run: {python} jobs/show_run.py --run {folder.parent}"
    )


def python_of_this() -> str:
    """How a person calls this interpreter from here: `python` may be another one."""
    own = Path(sys.executable)
    return str(own.relative_to(Path.cwd())) if own.is_relative_to(Path.cwd()) else str(own)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
