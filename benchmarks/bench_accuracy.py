"""Measures the time of training until NextItNet is as accurate as RecBole's at its best.

    recbole/bin/pip install torch recbole==1.2.1 'numpy<2' 'pandas<3' 'scipy<1.14'
    python benchmarks/bench_accuracy.py --input ml-100k.inter --recbole recbole/bin/python

Both libraries learn the same rows in the same order (leave one out, 50 inputs), on one thread, one
after the other: RecBole with its own settings until its early stopping, then ours. Both rank all
items for the same validation targets. Seconds are of training steps, without validations: those of
the processor for RecBole, those of the clock for ours, which are never fewer.
Without `--input` or `--recbole` it prints what is missing, and measures nothing.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as csv
import torch
from pairing import conditions

from skiprec.observability.curves import Curve, read_curve, time_to_reach

ROOT = Path(__file__).resolve().parents[1]
PROGRAM = Path(__file__).parent / "peers/recbole_training.py"
INPUTS = 50
# The residual blocks of RecBole's NextItNet by default: five times dilations 1 and 4, width 64.
CONFIG = """
root = "runs"
name = "accuracy"
[data]
path = "data"
[model]
backbone = "nextitnet"
num_blocks = 10
width = 64
dilations = [1, 4]
final_norm = true
[training]
epochs = 20
global_batch_rows = 64
learning_rate = 2e-3
warmup_steps = 50
final_lr_frac = 0.1
validate_every_steps = 15
log_every_steps = 5
engine = "torch"
[cluster]
num_workers = 0
threads_per_worker = 1
"""
ARMS: dict[str, tuple[str, ...]] = {
    "NextItNet, the same blocks": (),
    "NextItNet, without the norm": ("model.final_norm=false",),
    "NextItNet+": ("model.backbone=nextitnet_plus",),
}


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--input", type=Path, metavar="FILE", help="an atomic file of RecBole")
    parser.add_argument("--recbole", metavar="PYTHON", help="an interpreter that has RecBole")
    parser.add_argument(
        "--limit-s",
        type=float,
        default=7200,
        metavar="SECONDS",
        help="stop RecBole after so long a training (default: %(default)s)",
    )
    arguments = parser.parse_args(argv)
    torch.set_num_threads(1)
    missing = [name for name in ("input", "recbole") if getattr(arguments, name) is None]
    if missing:
        print(f"not run: give {' and '.join(f'--{name}' for name in missing)}")
        return 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        rows = sorted_rows(arguments.input)
        print(f"{conditions()}; {arguments.input.name}, {len(rows):,} interactions", flush=True)
        print("| library | best MRR@20 | epochs | s | reaches RecBole's best: epochs | s | |")
        print("|---|---:|---:|---:|---:|---:|---:|", flush=True)
        head, theirs = recbole(folder, rows, arguments.recbole, arguments.limit_s)
        best = max(theirs, key=lambda point: point["mrr@20"])
        print_row(head["name"], best["mrr@20"], theirs[-1], (best["epoch"], best["seconds"]), 1.0)
        build(folder, rows)
        is_ahead = True
        for label, settings in ARMS.items():
            curve = ours(folder, label, settings)
            reached = time_to_reach(curve, best["mrr@20"])
            epochs, hours = curve.end
            end = {"epoch": epochs, "seconds": 3600 * hours}
            point = None if reached is None else (reached[0], 3600 * reached[1])
            ratio = None if point is None else best["seconds"] / point[1]
            print_row(f"ours, {label}", max(mrr for *_, mrr in curve.mrr), end, point, ratio)
            is_ahead &= "without" in label or (ratio is not None and ratio > 1)
    return 0 if is_ahead else 1


def print_row(
    name: str,
    best: float,
    end: dict[str, float],
    reached: tuple[float, float] | None,
    ratio: float | None,
) -> None:
    cells = [name, f"{best:.4f}", f"{end['epoch']:.0f}", f"{end['seconds']:,.0f}"]
    cells += ["not reached", "", ""] if reached is None else [f"{reached[0]:.1f}"]
    if reached is not None:
        cells += [f"{reached[1]:,.0f}", f"{ratio:.1f}x"]
    print(f"| {' | '.join(cells)} |", flush=True)


def sorted_rows(path: Path) -> pa.Table:
    """Columns user_id, item_id, timestamp by user and time; the time is the place in that order.

    So both libraries see one order, where the file has interactions of the same second.
    """
    table = csv.read_csv(path, parse_options=csv.ParseOptions(delimiter="\t"))
    table = table.rename_columns([name.split(":")[0] for name in table.column_names])
    table = table.append_column("place", pa.array(range(len(table))))
    order = pc.sort_indices(
        table, [(name, "ascending") for name in ("user_id", "timestamp", "place")]
    )
    table = table.take(order).select(["user_id", "item_id"])
    return table.append_column("timestamp", pa.array(range(len(table))))


def recbole(
    folder: Path, rows: pa.Table, python: str, limit_s: float
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """What RecBole's program says of itself, and its points, one for each epoch."""
    (folder / "log").mkdir()
    with (folder / "log/log.inter").open("wb") as file:  # a header of Arrow would have quotes
        file.write(b"user_id:token\titem_id:token\ttimestamp:float\n")
        csv.write_csv(rows, file, csv.WriteOptions(include_header=False, delimiter="\t"))
    command = [python, str(PROGRAM), str(folder), str(folder / "saved"), str(INPUTS), str(limit_s)]
    lines: list[dict[str, Any]] = []
    with subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("{"):
                lines.append(json.loads(line))
                print(f"  {line.strip()}", file=sys.stderr, flush=True)
    if process.returncode:
        raise SystemExit(f"{python} ended with code {process.returncode}")
    return lines[0], [line for line in lines if "mrr@20" in line]


def build(folder: Path, rows: pa.Table) -> None:
    csv.write_csv(rows, folder / "log.csv")
    run(
        *("datasets/build_interactions.py", "--input", str(folder / "log.csv")),
        *("--user-column", "user_id", "--item-column", "item_id", "--time-column", "timestamp"),
        *("--window", str(INPUTS + 1), "--set", 'split={kind="leave_one_out"}'),
        *("--output", str(folder / "data")),
    )


def ours(folder: Path, label: str, settings: tuple[str, ...]) -> Curve:
    """The learning curve of a run of ours."""
    (folder / "accuracy.toml").write_text(CONFIG)
    name = f"arm-{list(ARMS).index(label)}"
    options = [f"root={folder}", f"name={name}", f"data.path={folder}/data", *settings]
    given = [part for option in options for part in ("--set", option)]
    run("jobs/pretrain_backbone.py", "--config", str(folder / "accuracy.toml"), *given)
    return read_curve(folder / name / "metrics.jsonl", label)


def run(*command: str) -> None:
    subprocess.run([sys.executable, *command], cwd=ROOT, check=True, stdout=sys.stderr)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
