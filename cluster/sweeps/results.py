"""The results of a sweep: `trials.jsonl` while it runs; at its end the table, picture and TOML.

<root>/<sweep>/  sweep.json      the search space and the configurations
                 trials.jsonl    one line a trial (`trial_rows.py`), best first
                 best.toml       the configuration of the best trial, for a job
                 table.md  pareto.png  tensorboard/
                 tune/           Tune's own state, from which the sweep goes on
"""

import json
from pathlib import Path
from typing import Any

from ray import tune

from cluster.evaluation.evaluate import evaluate_run
from cluster.sweeps.sweep import KIND, SweepConfig, settings_of
from cluster.sweeps.trial import SweepPlan
from cluster.sweeps.trial_rows import HeldOutNumbers, TrialLine, TrialRow
from skiprec.config.files import config_toml, saved_config
from skiprec.config.run import RunConfig
from skiprec.durable import write_text_durably
from skiprec.evaluation.measure.arms import SKIPREC
from skiprec.evaluation.report.schema import Report, interval_of, value_of
from skiprec.observability.markdown import markdown_table, with_interval
from skiprec.observability.pareto_picture import TrialPoint, draw_pareto
from skiprec.observability.tensorboard import write_trials
from skiprec.terminal import current_line, say

TRIALS = "trials.jsonl"


class Ledger(tune.Callback):
    """Keeps `trials.jsonl` up to date, and shows the progress of the trials."""

    def __init__(self, plan: SweepPlan, root: str, folder: Path):
        self.plan, self.root, self.folder = plan, root, folder

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        """Shows a trial's validation; Tune calls this and the methods below in the driver."""
        sweep = self.plan.sweep
        text = (
            f"[{trial}] {result['samples']:,} of {sweep.max_samples:,} samples  "
            f"MRR@20 {result['mrr@20']:.4f}  kept {result['keep_frac']:.2f}  "
            f"FLOPs {result['flops_speedup']:.2f}x"
        )
        # Tune pickles its callbacks, so the line cannot be an attribute.
        current_line().show(text, self._samples(trials), sweep.num_trials * sweep.max_samples)
        self._write(trials)

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **i: Any) -> None:
        """A trial has ended, or was stopped."""
        row = self._row(trial)
        say(f"[{trial}] {'complete' if row['complete'] else 'stopped'}")
        self._write(trials)

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """A trial has failed for the last time."""
        say(f"[{trial}] FAILED: {trial.get_error()}")
        self._write(trials)

    def _samples(self, trials: list[Any]) -> int:
        """How many samples need no more training; a trial that ended early has none left."""
        most = self.plan.sweep.max_samples
        return sum(
            most if trial.is_finished() else (trial.last_result or {}).get("samples", 0)
            for trial in trials
        )

    def _write(self, trials: list[Any]) -> None:
        rows = sorted(map(self._row, trials), key=lambda row: -(row["mrr@20"] or 0))
        text = "".join(json.dumps(row) + "\n" for row in rows)
        write_text_durably(self.folder / TRIALS, text)

    def _row(self, trial: Any) -> TrialLine:
        result = trial.last_result or {}
        kind = trial.config.get(KIND) or next(iter(self.plan.trees))
        run = result.get("run", str(trial))
        return {
            "trial": str(trial),
            "run": run,
            "complete": (Path(self.root) / run / "result.json").exists(),
            "failed": trial.status == "ERROR",
            "kind": kind,
            "settings": settings_of(trial.config, kind),
            "samples": result.get("samples"),
            "mrr@20": result.get("mrr@20"),
            "keep_frac": result.get("keep_frac"),
            "flops_speedup": result.get("flops_speedup"),
            "distinct_decisions": result.get("distinct_decisions"),
        }


def read_trials(folder: Path) -> list[TrialRow]:
    """The rows of `trials.jsonl` that have a result, best first."""
    lines = (folder / TRIALS).read_text().splitlines()
    return [row for row in map(json.loads, lines) if row["mrr@20"] is not None]


def front_of(trials: list[TrialRow]) -> list[TrialRow]:
    """The complete trials that no other one beats in both objectives, the fastest last."""
    front: list[TrialRow] = []
    complete = (row for row in trials if row["complete"])
    for row in sorted(complete, key=lambda row: (-row["mrr@20"], -row["flops_speedup"])):
        if not front or row["flops_speedup"] > front[-1]["flops_speedup"]:
            front.append(row)
    return front


def publish_sweep(sweep: SweepConfig, root: str, folder: Path, command: str) -> None:
    """Evaluates trials on test rows, one by one, with times; then writes the files of the sweep.

    With two objectives the trials of the front are evaluated, otherwise the best one.

    Raises:
        ValueError: no trial has a result.
    """
    trials = read_trials(folder)
    complete = [row for row in trials if row["complete"]] or trials
    if not complete:
        raise ValueError(
            f"no trial of {folder} has a result; see trials.jsonl and the folders of its runs"
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
    picture = draw_pareto([_point(row) for row in trials], [_point(row) for row in front])
    picture.savefig(folder / "pareto.png")
    write_trials(folder / "tensorboard", trials)
    write_text_durably(folder / "table.md", _markdown(sweep, trials, front, command))


def _config(root: str, row: TrialRow) -> RunConfig:
    return saved_config(Path(root) / row["run"] / "config.json")


def _test(report: Report) -> HeldOutNumbers:
    row = next(row for row in report["rows"] if row["name"] == SKIPREC.name)
    return {
        "mrr@20": value_of(row, "mrr@20"),
        "mrr@20_interval": interval_of(row, "mrr@20"),
        "speedup_flops": value_of(row, "speedup_flops"),
        "speedup_end_to_end": row["speedup_end_to_end"],
    }


def _point(row: TrialRow) -> TrialPoint:
    return TrialPoint(
        row["trial"], row["kind"], row["complete"], row["flops_speedup"], row["mrr@20"]
    )


def _markdown(
    sweep: SweepConfig, trials: list[TrialRow], front: list[TrialRow], command: str
) -> str:
    keys = sorted({key for row in trials for key in row["settings"]})
    columns = ["trial", "policy", *keys, "samples", "MRR@20", "kept", "FLOPs", "decisions", "state"]
    on_front = {row["trial"] for row in front}
    rows = [_cells(row, keys, row["trial"] in on_front) for row in trials]
    lines = [f"# Sweep {sweep.name}", ""]
    lines += markdown_table(columns, rows, num_text_columns=len(columns))
    lines += ["", "On validation rows. Evaluated on test rows, one by one (*):", ""]
    columns = ["trial", "MRR@20 [95 %]", "FLOPs", "end to end"]
    rows = [
        [row["trial"], *(_tested(row["test"]) if "test" in row else ["not complete", "", ""])]
        for row in front
    ]
    lines += markdown_table(columns, rows, num_text_columns=len(columns))
    lines += ["", f"- command: `{command}`"]
    lines.append(f"- {sweep.searcher} search, scheduler {sweep.scheduler}, seed {sweep.seed}")
    return "\n".join(lines) + "\n"


def _cells(row: TrialRow, keys: list[str], is_on_front: bool) -> list[str]:
    return [
        row["trial"] + (" *" if is_on_front else ""),
        row["kind"],
        *(_short(row["settings"].get(key)) for key in keys),
        f"{row['samples']:,}",
        f"{row['mrr@20']:.4f}",
        f"{row['keep_frac']:.2f}",
        f"{row['flops_speedup']:.2f}x",
        f"{row['distinct_decisions']:,.0f}",
        "failed" if row["failed"] else "complete" if row["complete"] else "stopped",
    ]


def _tested(numbers: HeldOutNumbers) -> list[str]:
    speedup = numbers["speedup_end_to_end"]
    return [
        with_interval(numbers["mrr@20"], numbers["mrr@20_interval"], ".4f"),
        f"{numbers['speedup_flops']:.2f}x",
        f"{speedup:.2f}x" if speedup else "",
    ]


def _short(value: object) -> str:
    if value is None:
        return ""
    return f"{value:.3g}" if isinstance(value, float) else str(value)
