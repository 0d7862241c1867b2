"""What a sweep leaves: `trials.jsonl` as it goes; then the front timed, table, picture, TOML.

<root>/<sweep>/  sweep.json      what was searched, with which configurations
                 trials.jsonl    one line a trial, best first
                 best.toml       the best one's configuration, for a job
                 table.md  pareto.png  tensorboard/
                 tune/           Tune's own state, from which the sweep goes on
"""

import json
from pathlib import Path
from typing import Any

from ray import tune

from cluster.evaluation.evaluate import evaluate_run
from cluster.sweeps.sweep import KIND, SweepConfig, settings_of
from cluster.sweeps.trial import SweepJob
from skiprec.config.files import config_toml
from skiprec.config.run import RunConfig
from skiprec.durable import write_text_durably
from skiprec.observability.pareto_picture import draw_pareto
from skiprec.observability.tensorboard import write_trials
from skiprec.terminal import current_line, say

Record = dict[str, Any]
TRIALS = "trials.jsonl"


class Ledger(tune.Callback):
    """Keeps `trials.jsonl` up to date, and shows the progress of the trials."""

    def __init__(self, job: SweepJob, root: str, folder: Path):
        self.job, self.root, self.folder = job, root, folder

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: Record, **info: Any
    ) -> None:
        """Shows a trial's validation; Tune calls this and the methods below in the driver."""
        sweep = self.job.sweep
        text = (
            f"[{trial}] {result['samples']:,} of {sweep.max_samples:,} samples  "
            f"MRR@20 {result['mrr@20']:.4f}  kept {result['keep_frac']:.2f}  "
            f"FLOPs {result['flops_speedup']:.2f}x"
        )
        # Tune pickles its callbacks, so the line cannot be an attribute.
        current_line().show(text, self._samples(trials), sweep.num_trials * sweep.max_samples)
        self._write(trials)

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **i: Any) -> None:
        """Prints that a trial completed, or was stopped."""
        row = self._row(trial)
        say(f"[{trial}] {'complete' if row['complete'] else 'stopped'}")
        self._write(trials)

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Prints that a trial failed for the last time."""
        say(f"[{trial}] FAILED: {trial.get_error()}")
        self._write(trials)

    def _samples(self, trials: list[Any]) -> int:
        """How many samples need no more training; a trial that ended early has none left."""
        most = self.job.sweep.max_samples
        return sum(
            most if trial.is_finished() else (trial.last_result or {}).get("samples", 0)
            for trial in trials
        )

    def _write(self, trials: list[Any]) -> None:
        rows = sorted(map(self._row, trials), key=lambda row: -(row["mrr@20"] or 0))
        text = "".join(json.dumps(row) + "\n" for row in rows)
        write_text_durably(self.folder / TRIALS, text)

    def _row(self, trial: Any) -> Record:
        found = trial.last_result or {}
        kind = trial.config.get(KIND) or next(iter(self.job.trees))
        run = found.get("run", str(trial))
        numbers = ("samples", "mrr@20", "keep_frac", "flops_speedup", "distinct_decisions")
        return {
            "trial": str(trial),
            "run": run,
            "complete": (Path(self.root) / run / "result.json").exists(),
            "failed": trial.status == "ERROR",
            "kind": kind,
            "settings": settings_of(trial.config, kind),
            **{name: found.get(name) for name in numbers},
        }


def read_trials(folder: Path) -> list[Record]:
    """The rows of `trials.jsonl` that have a result, best first."""
    lines = (folder / TRIALS).read_text().splitlines()
    return [row for row in map(json.loads, lines) if row["mrr@20"] is not None]


def front_of(trials: list[Record]) -> list[Record]:
    """The complete trials that no other one beats in both objectives, fastest last."""
    found: list[Record] = []
    complete = (row for row in trials if row["complete"])
    for row in sorted(complete, key=lambda row: (-row["mrr@20"], -row["flops_speedup"])):
        if not found or row["flops_speedup"] > found[-1]["flops_speedup"]:
            found.append(row)
    return found


def publish_sweep(sweep: SweepConfig, root: str, folder: Path, command: str) -> None:
    """Evaluates what deserves it, one by one, with times, alone; then writes what is read.

    With two objectives these are the trials of the front, else the best one.

    Raises:
        ValueError: no trial has a result.
    """
    trials = read_trials(folder)
    complete = [row for row in trials if row["complete"]] or trials
    if not complete:
        raise ValueError(
            f"no trial of {folder} has a result; trials.jsonl and the runs' folders say why"
        )
    front = front_of(trials) if len(sweep.objectives) > 1 else complete[:1]
    for row in front:
        report = Path(root) / row["run"] / "report.json"
        if row["complete"] and not report.exists():
            evaluate_run(_config(root, row), report.parent, command)
        if report.exists():
            row["test"] = _test(json.loads(report.read_text()))
    best = _config(root, complete[0]).model_copy(update={"name": f"{sweep.name}-best"})
    write_text_durably(folder / "best.toml", config_toml(best))
    draw_pareto(trials, front).savefig(folder / "pareto.png")
    write_trials(folder / "tensorboard", trials)
    write_text_durably(folder / "table.md", _markdown(sweep, trials, front, command))


def _config(root: str, row: Record) -> RunConfig:
    saved = (Path(root) / row["run"] / "config.json").read_text()
    return RunConfig.model_validate(json.loads(saved))


def _test(report: Record) -> Record:
    """Accuracy on the rows that were not searched on, and speed by the clock."""
    row = next(row for row in report["rows"] if row["name"] == "skiprec")
    names = ("mrr@20", "mrr@20_interval", "speedup_flops", "speedup_end_to_end")
    return {name: row[name] for name in names}


def _markdown(sweep: SweepConfig, trials: list[Record], front: list[Record], command: str) -> str:
    keys = sorted({key for row in trials for key in row["settings"]})
    columns = ["trial", "policy", *keys, "samples", "MRR@20", "kept", "FLOPs", "decisions", "state"]
    on_front = {row["trial"] for row in front}
    lines = [f"# Sweep {sweep.name}", "", _line(columns), _line(["---"] * len(columns))]
    for row in trials:
        settings = [_short(row["settings"].get(key)) for key in keys]
        state = "failed" if row["failed"] else "complete" if row["complete"] else "stopped"
        lines.append(
            _line(
                [
                    row["trial"] + (" *" if row["trial"] in on_front else ""),
                    row["kind"],
                    *settings,
                    f"{row['samples']:,}",
                    f"{row['mrr@20']:.4f}",
                    f"{row['keep_frac']:.2f}",
                    f"{row['flops_speedup']:.2f}x",
                    f"{row['distinct_decisions']:,.0f}",
                    state,
                ]
            )
        )
    lines += ["", "On validation rows. Evaluated on test rows, one by one (*):", ""]
    lines += [_line(["trial", "MRR@20 [95 %]", "FLOPs", "end to end"]), _line(["---"] * 4)]
    for row in front:
        shown = _tested(row["test"]) if "test" in row else ["not complete", "", ""]
        lines.append(_line([row["trial"], *shown]))
    lines += ["", f"- command: `{command}`"]
    lines.append(f"- {sweep.searcher} search, scheduler {sweep.scheduler}, seed {sweep.seed}")
    return "\n".join(lines) + "\n"


def _tested(found: Record) -> list[str]:
    low, high = found["mrr@20_interval"]
    speed = found["speedup_end_to_end"]
    return [
        f"{found['mrr@20']:.4f} [{low:.4f}, {high:.4f}]",
        f"{found['speedup_flops']:.2f}x",
        f"{speed:.2f}x" if speed else "",
    ]


def _short(value: object) -> str:
    if value is None:
        return ""
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _line(cells: list[str]) -> str:
    return "| " + " | ".join(cells) + " |"
