"""Measures exported models against each other: accuracy and time, at every point of their knobs.

    python jobs/measure_tradeoff.py --models runs/a/export runs/b/export --data runs/data/shop

Times of all models are taken in turn, on one thread. Writes tradeoff.md, tradeoff.json and
tradeoff.png into the output folder.
"""

import argparse
import json
import sys
import time
from pathlib import Path

from cluster.machine.process import cpu_model
from cluster.runs.folder import git_commit
from cluster.runs.publish import publish
from skiprec.data.manifest import read_manifest
from skiprec.durable import make_folder
from skiprec.evaluation.tradeoff.measure import Timing, measure_tradeoff
from skiprec.evaluation.tradeoff.picture import draw_tradeoff
from skiprec.evaluation.tradeoff.report import (
    tradeoff_markdown,
    tradeoff_report,
    tradeoff_table,
)
from skiprec.terminal import moving_line, print_markdown


def parse_arguments(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--models",
        type=Path,
        nargs="+",
        required=True,
        metavar="DIR",
        help="folders of exported models (required)",
    )
    parser.add_argument(
        "--data", type=Path, required=True, metavar="DIR", help="folder of a dataset (required)"
    )
    parser.add_argument(
        "--split",
        choices=("validation", "test"),
        default="test",
        help="rows that no model was trained on (default: test)",
    )
    parser.add_argument(
        "--max-rows",
        type=int,
        metavar="N",
        help="largest number of rows, evenly spaced (default: all)",
    )
    parser.add_argument(
        "--batch",
        type=int,
        default=1,
        metavar="N",
        help="histories in one call when times are taken (default: 1)",
    )
    parser.add_argument(
        "--rounds",
        type=int,
        default=15,
        metavar="N",
        help="rounds over all models when times are taken (default: 15)",
    )
    parser.add_argument(
        "--output",
        type=Path,
        metavar="DIR",
        help="folder for the results (default: runs/tradeoff/NAME, by the name of the dataset)",
    )
    arguments = parser.parse_args(argv)
    for name in ("batch", "rounds"):
        if getattr(arguments, name) < 1:
            parser.error(f"--{name} is {getattr(arguments, name)}; expected 1 or more")
    return arguments


def main(argv: list[str]) -> int:
    arguments = parse_arguments(argv)
    started = time.monotonic()
    timing = Timing(batch=arguments.batch, rounds=arguments.rounds)
    try:
        manifest = read_manifest(arguments.data)
        output = arguments.output or Path("runs/tradeoff") / manifest.name
        make_folder(output)
        with moving_line() as line:
            measured = measure_tradeoff(
                arguments.models,
                arguments.data,
                arguments.split,
                arguments.max_rows,
                timing,
                line.report,
            )
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    conditions = {
        "data": manifest.name,
        "data_content": manifest.content_hash,
        "split": arguments.split,
        "rows": f"{len(measured.user_R):,}",
        "batch": timing.batch,
        "timed_histories_in_each_round": timing.histories,
        "rounds": timing.rounds,
        "executor": measured.executor,
        "cpu": cpu_model(),
        "command": "jobs/measure_tradeoff.py " + " ".join(argv),
        "commit": git_commit(),
        "seconds": round(time.monotonic() - started, 1),
    }
    report = tradeoff_report(measured, conditions)

    def write(draft: Path) -> None:
        draw_tradeoff(report).savefig(draft / "tradeoff.png")
        (draft / "tradeoff.md").write_text(tradeoff_markdown(report))

    path = publish(output, "tradeoff.json", json.dumps(report, indent=1, allow_nan=False), write)
    print_markdown("\n".join(tradeoff_table(report)))
    print(f"report: {path.with_name('tradeoff.md')} (beside it tradeoff.json, tradeoff.png)")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
