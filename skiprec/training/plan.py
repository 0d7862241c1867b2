"""The plan of a run: which steps log, validate and save. It is the same on every rank."""

import math
from dataclasses import dataclass

from skiprec.config.training import TrainingConfig


@dataclass(frozen=True)
class StepPlan:
    """The plan of a run, fixed before the loop starts. `done` is the number of finished steps."""

    total_steps: int
    log_every: int
    validate_every: int | None
    checkpoint_every: int | None

    def logs(self, done: int) -> bool:
        """Whether a line of the log is written after `done` steps.

        Each checkpoint has a line, too. The line detects numbers that are not finite before they
        are saved, and a resumed run writes the same lines as an uninterrupted run.
        """
        return done % self.log_every == 0 or done == 1 or self.checkpoints(done)

    def validates(self, done: int) -> bool:
        """Whether the validation split is scored after `done` steps; always after the last step."""
        every = self.validate_every
        return done == self.total_steps or (every is not None and done % every == 0)

    def checkpoints(self, done: int) -> bool:
        """Whether the state is saved after `done` steps; always with a validation."""
        every = self.checkpoint_every
        return self.validates(done) or (every is not None and done % every == 0)


def make_plan(training: TrainingConfig, num_rows: int) -> StepPlan:
    """The plan for `num_rows` training rows. Steps are rounded up, so the last step is full."""
    total = max(1, math.ceil(training.epochs * num_rows / training.global_batch_rows))
    return StepPlan(
        total_steps=total,
        log_every=training.log_every_steps,
        validate_every=training.validate_every_steps,
        checkpoint_every=training.checkpoint_every_steps,
    )


def lr_factor(training: TrainingConfig, step: int, total_steps: int) -> float:
    """The share of the peak rate at `step` (from 0): linear warm-up, then a cosine.

    The cosine falls from 1 to `final_lr_frac` at the last step.
    """
    if step < training.warmup_steps:
        return (step + 1) / (training.warmup_steps + 1)
    progress = (step - training.warmup_steps) / max(1, total_steps - 1 - training.warmup_steps)
    floor = training.final_lr_frac
    return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))


def progress_at(step: int, total_steps: int) -> float:
    """The progress of the training: 0 at the first step, 1 at the last step."""
    return step / max(1, total_steps - 1)
