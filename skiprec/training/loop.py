"""The training loop. It knows no Ray, no DeepSpeed, no files and no clock of its own."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from skiprec.config import RunConfig
from skiprec.data.batching import TrainingReader
from skiprec.observability.sinks import Sink
from skiprec.training.collectives import Collectives
from skiprec.training.engine import Engine
from skiprec.training.objective import Pass
from skiprec.training.plan import StepPlan, lr_factor, temperature
from skiprec.training.state import TrainState
from skiprec.training.validation import Validation
from skiprec.types import Batch

BEST_METRIC = "validation/mrr@20"


@dataclass(frozen=True)
class LoopHooks:
    """What the loop asks of its surroundings; every rank calls each of them equally often."""

    validate: Callable[[], Validation]
    save: Callable[[TrainState, bool], None]
    clock: Callable[[], float]


def train(
    config: RunConfig,
    plan: StepPlan,
    engine: Engine,
    reader: TrainingReader,
    comm: Collectives,
    sink: Sink,
    hooks: LoopHooks,
    state: TrainState,
) -> TrainState:
    """Runs from `state` to the end of the plan or to early stopping; returns the last state.

    Raises:
        FloatingPointError: a loss or gradient norm is not finite (seen at the next log line).
    """
    window = _LogWindow(hooks.clock, state.step)
    while state.step < plan.total_steps and not state.stopped_early:
        started = hooks.clock()
        batches = [batch.to(engine.device) for batch in reader.micro_batches(state.step)]
        read = hooks.clock()
        sums = run_step(config, plan, engine, batches, comm, state.step)
        window.add(sums, data_s=read - started, step_s=hooks.clock() - started)
        state = state.advanced(config.training.global_batch_rows)
        if plan.logs(state.step):
            sink.scalars(state.step, window.flush(config, plan, comm, state))
        improved = False
        if plan.validates(state.step):
            result = hooks.validate()
            before = state.best_step
            state = state.validated(result.scalars[BEST_METRIC], config.training.patience)
            improved = state.best_step != before
            sink.scalars(state.step, result.scalars)
            if config.policy.kind != "none":
                sink.decisions(state.step, result.keep_UL)
        if plan.checkpoints(state.step) or state.stopped_early:
            hooks.save(state, improved)
    return state


def run_step(
    config: RunConfig,
    plan: StepPlan,
    engine: Engine,
    batches: list[Batch],
    comm: Collectives,
    step: int,
) -> dict[str, Tensor | float]:
    """One optimizer step over a global batch. Returns this rank's sums and the step's settings.

    The counts that the loss is divided by, and the mean decision that the budget squares, are of
    the global batch: they are summed over passes and ranks before the first backward pass.
    """
    tau = temperature(config.policy, step, plan.total_steps)
    num_rows = config.training.global_batch_rows
    counts = torch.zeros(2, dtype=torch.float64, device=engine.device)
    for batch in batches:
        counts[0] += batch.is_scored_BT.sum()
        if config.policy.budget_weight is not None:
            look = Pass("statistics", step, tau)
            counts[1] += engine.forward(batch, look)["keep_sum"].double()
    num_targets, keep_sum = comm.sum(counts).float()
    what = Pass(
        "loss",
        step,
        tau,
        num_targets=num_targets.clamp(min=1),
        num_rows=num_rows,
        keep_frac=keep_sum / (num_rows * config.model.num_blocks),
    )
    totals: dict[str, Tensor | float] = {}
    for batch in batches:
        for name, value in engine.forward_backward(batch, what).items():
            totals[name] = totals[name] + value if name in totals else value
    totals |= engine.step(lr_factor(config.training, step, plan.total_steps))
    totals["num_targets"] = num_targets
    if tau is not None:
        totals["policy/temperature"] = tau
    return totals


class _LogWindow:
    """Sums since the last log line, kept on the device until then."""

    def __init__(self, clock: Callable[[], float], step: int):
        self.clock = clock
        self.first_step = step
        self.started_s = clock()
        self.reset(step)

    def reset(self, step: int) -> None:
        self.step, self.opened_s = step, self.clock()
        self.sums: dict[str, Tensor] = {}
        self.times = {"data_s": 0.0, "step_s": 0.0}
        self.latest: dict[str, Tensor | float] = {}

    def add(self, sums: dict[str, Tensor | float], **times: float) -> None:
        for name, value in sums.items():
            if name in ("cross_entropy", "keep_L", "num_targets"):
                assert isinstance(value, Tensor)
                self.sums[name] = self.sums[name] + value if name in self.sums else value
            else:
                self.latest[name] = value
        for name, seconds in times.items():
            self.times[name] += seconds

    def flush(
        self, config: RunConfig, plan: StepPlan, comm: Collectives, state: TrainState
    ) -> dict[str, float]:
        """One line of the log; the only place where the loop waits for the device."""
        steps = state.step - self.step
        num_rows = steps * config.training.global_batch_rows
        num_targets = self.sums.pop("num_targets")  # is of all ranks already
        sums = {name: comm.sum(value.double()) for name, value in self.sums.items()}
        loss = (sums["cross_entropy"] / num_targets.clamp(min=1)).item()
        line = {"train/loss": loss}
        if "keep_L" in sums:
            kept = sums["keep_L"].sum().item() / (num_rows * config.model.num_blocks)
            line["policy/sampled_keep_frac"] = kept
            budget = config.policy
            if budget.budget_weight is not None and budget.target_keep_frac is not None:
                excess = kept - budget.target_keep_frac
                line["train/budget"] = budget.budget_weight * excess**2
        for name, value in self.latest.items():
            line[name if "/" in name else f"train/{name}"] = float(value)
        if not all(abs(value) < float("inf") for value in (loss, line["train/grad_norm"])):
            raise FloatingPointError(
                f"step {state.step}: loss {loss}, gradient norm {line['train/grad_norm']}; "
                "expected finite numbers. Lower training.learning_rate or set "
                "training.grad_clip_norm; the last checkpoint is from before."
            )
        now = self.clock()
        wall_s = now - self.opened_s
        per_step = (now - self.started_s) / max(1, state.step - self.first_step)
        line |= {
            "time/samples_per_s": num_rows / wall_s,
            "time/data_wait_s": self.times["data_s"] / steps,
            "time/step_s": self.times["step_s"] / steps,
            "progress/epoch": state.samples
            / config.training.global_batch_rows
            * config.training.epochs
            / plan.total_steps,
            "progress/steps_total": float(plan.total_steps),
            "progress/left_s": per_step * (plan.total_steps - state.step),
        }
        self.reset(state.step)
        return line
