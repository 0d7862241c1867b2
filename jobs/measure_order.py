"""Asks a dataset, before anything is trained, whether order beyond the last item tells anything.

Counts what followed the last 0 to 5 items in the training rows, and predicts held-out items from
these counts. Writes order.md, order.json and order.png into the output folder.
"""

import argparse
import json
import sys
import time
from pathlib import Path

from cluster.runs.folder import git_commit
from cluster.runs.publish import publish
from skiprec.data.manifest import read_manifest
from skiprec.durable import make_folder
from skiprec.evaluation.order.measure import measure_order
from skiprec.evaluation.order.report import draw_order, order_markdown, order_report, order_table
from skiprec.terminal import print_markdown, print_prose, say


def parse_arguments(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--data",
        type=Path,
        required=True,
        metavar="DIR",
        help="folder of a dataset, built by a script of datasets/ (required)",
    )
    parser.add_argument(
        "--split",
        choices=("validation", "test"),
        default="test",
        help="rows whose last items are predicted (default: test)",
    )
    parser.add_argument(
        "--max-rows",
        type=int,
        default=20_000,
        metavar="N",
        help="largest number of predicted rows, evenly spaced (default: 20000)",
    )
    parser.add_argument(
        "--max-train-items",
        type=int,
        default=30_000_000,
        metavar="N",
        help="largest number of items of training rows, evenly spaced rows (default: 30000000)",
    )
    parser.add_argument(
        "--output",
        type=Path,
        metavar="DIR",
        help="folder for the results (default: runs/order/NAME, by the name of the dataset)",
    )
    args = parser.parse_args(argv)
    for name in ("max_rows", "max_train_items"):
        if getattr(args, name) < 1:
            option = name.replace("_", "-")
            parser.error(f"--{option} is {getattr(args, name)}; expected 1 or more")
    return args


def main(argv: list[str]) -> int:
    args = parse_arguments(argv)
    started = time.monotonic()
    try:
        manifest = read_manifest(args.data)
        output = args.output or Path("runs/order") / manifest.name
        make_folder(output)
        say(f"[order] counting the training rows of {manifest.name}")
        measured = measure_order(args.data, args.split, args.max_rows, args.max_train_items)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    conditions: dict[str, object] = {
        "data": manifest.name,
        "data_content": manifest.content_hash,
        "split": args.split,
        "rows": f"{len(measured.user_R):,} of {measured.all_held_out_rows:,}",
        "targets_never_trained_on": f"{measured.unseen_targets:,} of {len(measured.user_R):,}",
        "train_rows": f"{measured.train_rows:,} of {measured.all_train_rows:,}",
        "items": manifest.num_items,
        "window": manifest.window,
        "command": "jobs/measure_order.py " + " ".join(argv),
        "commit": git_commit(),
        "seconds": round(time.monotonic() - started, 1),
    }
    report = order_report(measured, conditions)

    def write(draft: Path) -> None:
        draw_order(report).savefig(draft / "order.png")
        (draft / "order.md").write_text(order_markdown(report))

    path = publish(output, "order.json", json.dumps(report, indent=1, allow_nan=False), write)
    print_markdown("\n".join(order_table(report)))
    print_prose(report["statement"])
    print(f"report: {path.with_name('order.md')} (beside it order.json, order.png)")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
