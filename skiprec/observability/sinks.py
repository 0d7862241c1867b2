"""Sinks write metrics to JSON lines, TensorBoard or the console. Only that of rank 0 writes."""

import json
from pathlib import Path
from typing import Protocol, TextIO

import numpy as np
from numpy.typing import NDArray

Decisions = NDArray[np.float32]


class Sink(Protocol):
    """Takes the numbers of a step. Names are `group/name`; docs/metrics.md lists them."""

    def scalars(self, step: int, values: dict[str, float]) -> None:
        """One value a name."""
        ...

    def decisions(self, step: int, keep_RL: Decisions) -> None:
        """The decisions of serving over the validation rows."""
        ...

    def close(self) -> None:
        """Writes what is pending."""
        ...


class NoSink:
    """For every rank but 0."""

    def scalars(self, step: int, values: dict[str, float]) -> None:
        """Drops them."""

    def decisions(self, step: int, keep_RL: Decisions) -> None:
        """Drops them."""

    def close(self) -> None:
        """Nothing is pending."""


class SeveralSinks:
    """Each of them gets everything."""

    def __init__(self, *sinks: Sink):
        self.sinks = sinks

    def scalars(self, step: int, values: dict[str, float]) -> None:
        """To each."""
        for sink in self.sinks:
            sink.scalars(step, values)

    def decisions(self, step: int, keep_RL: Decisions) -> None:
        """To each."""
        for sink in self.sinks:
            sink.decisions(step, keep_RL)

    def close(self) -> None:
        """Each."""
        for sink in self.sinks:
            sink.close()


class JsonlSink:
    """One JSON object a call. Lines after `resume_step` belong to a lost attempt and are cut."""

    def __init__(self, path: Path, resume_step: int):
        kept = []
        if path.exists():
            for line in path.read_text().splitlines():
                try:
                    if json.loads(line)["step"] <= resume_step:
                        kept.append(line)
                except (json.JSONDecodeError, KeyError):  # torn by a crash; so is all after it
                    break
        # A new file, not the old one cut: a writer of the lost attempt that still lives for some
        # seconds then writes to a file that has no name any more.
        draft = path.with_name(f".{path.name}.draft")
        draft.write_text("".join(f"{line}\n" for line in kept))
        draft.replace(path)
        self.file: TextIO = path.open("a")

    def scalars(self, step: int, values: dict[str, float]) -> None:
        """Written through at once, so that a killed run has its last line."""
        self.file.write(json.dumps({"step": step, **values}) + "\n")
        self.file.flush()

    def decisions(self, step: int, keep_RL: Decisions) -> None:
        """Pictures are not for this file."""

    def close(self) -> None:
        """Closes the file."""
        self.file.close()


class ProgressLine(Protocol):
    """Where a run shows how far it is; a terminal's moving line is one."""

    def say(self, text: str) -> None:
        """Prints a line that stays."""
        ...

    def show(self, text: str, done: int | None = None, total: int | None = None) -> None:
        """Shows a text that the next one replaces; `done` of `total` units are complete."""
        ...


class PrintedLines:
    """Prints each text as a plain line after the name of the run."""

    def __init__(self, run_name: str):
        self.run_name = run_name

    def say(self, text: str) -> None:
        """Prints the line at once."""
        print(f"[{self.run_name}] {text}", flush=True)

    def show(self, text: str, done: int | None = None, total: int | None = None) -> None:
        """Prints the line as well: nothing is replaced."""
        self.say(text)


class ConsoleSink:
    """Shows people the step of a run, its loss and speed, the time left, and each validation.

    Args:
        line: shows the texts. None prints them.
    """

    def __init__(self, run_name: str, line: ProgressLine | None = None):
        self.line = line or PrintedLines(run_name)

    def scalars(self, step: int, values: dict[str, float]) -> None:
        """Shows progress and validations; TensorBoard gets all values."""
        if "train/loss" in values:
            total = int(values["progress/steps_total"])
            keep = values.get("policy/sampled_keep_frac")
            kept = "" if keep is None else f"  kept {keep:.2f}"
            text = (
                f"step {step}/{total}  loss {values['train/loss']:.4f}{kept}  "
                f"{values['time/samples_per_s']:.0f} samples/s  "
                f"{duration_text(values['progress/left_s'])} left"
            )
            self.line.show(text, step, total)
        elif "validation/mrr@20" in values:
            text = (
                f"step {step}  validation MRR@20 {values['validation/mrr@20']:.4f}  "
                f"HR@20 {values['validation/hr@20']:.4f}"
            )
            at_exits = [
                f"{name.split('/')[1].split('_')[0].lstrip('0')}: {value:.4f}"
                for name, value in sorted(values.items())
                if name.startswith("validation_exits/") and name.endswith("_mrr@20")
            ]
            if at_exits:
                text += f"  at exits {', '.join(at_exits)}"
            if "policy/keep_frac" in values:
                text += (
                    f"  kept {values['policy/keep_frac']:.2f}  "
                    f"{values['policy/distinct_decisions']:.0f} distinct decisions"
                )
            self.line.say(text)

    def decisions(self, step: int, keep_RL: Decisions) -> None:
        """Does nothing: a console shows no pictures."""

    def close(self) -> None:
        """Does nothing: each text was shown at once."""


def duration_text(seconds: float) -> str:
    """`9s` or `1m15s`."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}m{rest:02d}s" if minutes else f"{rest}s"
