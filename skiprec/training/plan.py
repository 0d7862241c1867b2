"""What happens at which step: fixed before the loop starts, and equal on every rank."""

import math
from dataclasses import dataclass

from skiprec.config.training import TrainingConfig


@dataclass(frozen=True)
class StepPlan:
    """Steps count from 1 when they are done: `validates(n)` asks after step n."""

    total_steps: int
    log_every: int
    validate_every: int | None
    checkpoint_every: int | None

    def logs(self, done: int) -> bool:
        """Whether a line is written after `done` steps.

        With each checkpoint too: a line sees what is not finite before it is saved, and a run that
        goes on from there writes the lines of an unbroken one.
        """
        return done % self.log_every == 0 or done == 1 or self.checkpoints(done)

    def validates(self, done: int) -> bool:
        """Whether the validation split is scored after `done` steps; always at the end."""
        every = self.validate_every
        return done == self.total_steps or (every is not None and done % every == 0)

    def checkpoints(self, done: int) -> bool:
        """Whether the state is saved after `done` steps: with each validation, and in between."""
        every = self.checkpoint_every
        return self.validates(done) or (every is not None and done % every == 0)


def make_plan(training: TrainingConfig, num_rows: int) -> StepPlan:
    """The plan for a split of `num_rows` rows; the last step is always a full one."""
    total = max(1, math.ceil(training.epochs * num_rows / training.global_batch_rows))
    return StepPlan(
        total_steps=total,
        log_every=training.log_every_steps,
        validate_every=training.validate_every_steps,
        checkpoint_every=training.checkpoint_every_steps,
    )


def lr_factor(training: TrainingConfig, step: int, total_steps: int) -> float:
    """Linear warm-up, then a cosine from 1 to `final_lr_frac` at the last step."""
    if step < training.warmup_steps:
        return (step + 1) / (training.warmup_steps + 1)
    progress = (step - training.warmup_steps) / max(1, total_steps - 1 - training.warmup_steps)
    floor = training.final_lr_frac
    return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))


def progress_at(step: int, total_steps: int) -> float:
    """0 at the first step, 1 at the last."""
    return step / max(1, total_steps - 1)
