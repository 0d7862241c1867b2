"""The training loop. It uses no Ray, no DeepSpeed and no files, and has no clock of its own."""

from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum
from typing import Protocol

import torch
from torch import Tensor

from skiprec.config.run import RunConfig
from skiprec.data.batching import TrainingReader
from skiprec.observability.sinks import Sink
from skiprec.policy.training import PolicyTraining
from skiprec.training.collectives import Collectives
from skiprec.training.engine import Engine
from skiprec.training.plan import StepPlan, lr_factor, progress_at
from skiprec.training.state import TrainState
from skiprec.training.validation import Validation
from skiprec.types import Batch, Pass

BEST_METRIC = "validation/mrr@20"


class NotFiniteError(FloatingPointError):
    """A loss or a gradient norm is not finite. `step` is the first such step, counted from 0."""

    def __init__(self, message: str, step: int):
        super().__init__(message, step)
        self.message, self.step = message, step

    def __str__(self) -> str:
        return self.message


class Request(IntEnum):
    """A request to a running loop. If the requests of ranks differ, the largest value counts."""

    NONE = 0
    SAVE = 1
    STOP = 2


class LoopHooks(Protocol):
    """What the loop asks of the process around it: the time, validations, checkpoints, requests.

    Every rank must call each method equally often.
    """

    def clock(self) -> float:
        """Seconds since some fixed moment."""
        ...

    def beat(self, step: int) -> None:
        """Reports that the loop is alive and in this step.

        The loop calls it before each step, each validation and each checkpoint.
        """
        ...

    def validate(self) -> Validation:
        """The scores of the validation rows."""
        ...

    def save(self, state: TrainState) -> None:
        """Writes a checkpoint of `state`."""
        ...

    def request(self) -> Request:
        """The request to this rank, asked for at each line of the log; ranks may differ."""
        ...


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
    """Trains from `state` to the end of the plan or to early stopping; returns the last state.

    On a request to stop, it saves a checkpoint and returns early.

    Raises:
        NotFiniteError: a loss or a gradient norm is not finite (checked at each line of the log).
    """
    policy = engine.objective.policy_training
    window = _LogWindow(hooks.clock, state.step)
    while state.step < plan.total_steps and not state.stopped_early:
        hooks.beat(state.step)
        started = hooks.clock()
        batches = [batch.to(engine.device) for batch in reader.micro_batches(state.step)]
        read_until = hooks.clock()
        result = run_step(config, plan, engine, batches, comm, state.step)
        window.add(result, data_s=read_until - started, step_s=hooks.clock() - started)
        state = state.advanced(config.training.global_batch_rows)
        request = Request.NONE
        if plan.logs(state.step):
            sink.scalars(state.step, window.flush(config, plan, policy, comm, state))
            request = agreed(hooks.request(), comm, engine.device)
        if plan.validates(state.step):
            hooks.beat(state.step)
            validation = hooks.validate()
            state = state.validated(validation.scalars[BEST_METRIC], config.training.patience)
            sink.scalars(state.step, validation.scalars)
            if config.policy.decides:
                sink.decisions(state.step, validation.keep_RL)
        if plan.checkpoints(state.step) or request != Request.NONE:
            hooks.beat(state.step)
            hooks.save(state)
        if request == Request.STOP:
            break
    return state


def agreed(request: Request, comm: Collectives, device: torch.device) -> Request:
    """The largest request of any rank. This is a collective."""
    votes = torch.zeros(len(Request), device=device)
    votes[request] = 1
    return Request(int(comm.sum(votes).cpu().nonzero().max()))


@dataclass(frozen=True)
class StepResult:
    """The numbers of one step for the log.

    Args:
        num_targets: scored positions of the global batch.
        sums: sums over this rank's rows.
        settings: settings of the step, such as learning rates, and the norm of the gradient.
    """

    num_targets: Tensor
    sums: dict[str, Tensor]
    settings: dict[str, Tensor | float]


def run_step(
    config: RunConfig,
    plan: StepPlan,
    engine: Engine,
    batches: list[Batch],
    comm: Collectives,
    step: int,
) -> StepResult:
    """The result of one optimizer step over a global batch.

    Args:
        batches: this rank's micro-batches of the step.
        comm: joins the ranks.
        step: counted from 0.

    The loss is divided by counts of the global batch, and some of its terms need mean decisions of
    the global batch. Both are summed over micro-batches and ranks before the first backward pass.
    The gradients are summed over ranks by the engine.
    """
    policy = engine.objective.policy_training
    progress = progress_at(step, plan.total_steps)
    num_targets = torch.zeros((), dtype=torch.float64, device=engine.device)
    statistics: dict[str, Tensor] = {}
    for batch in batches:
        num_targets += batch.is_scored_BT.sum()
        if policy.needs_statistics:
            of_batch = engine.forward(batch, Pass("statistics", step, progress))
            add_sums(statistics, {name: value.double() for name, value in of_batch.items()})
    totals = sum_over_ranks({"num_targets": num_targets, **statistics}, comm)
    total_targets = totals.pop("num_targets")
    pass_ = Pass(
        "loss",
        step,
        progress,
        num_targets=total_targets.clamp(min=1),
        num_rows=config.training.global_batch_rows,
        statistics=totals,
    )
    sums: dict[str, Tensor] = {}
    for batch in batches:
        add_sums(sums, engine.forward_backward(batch, pass_))
    settings = engine.step(lr_factor(config.training, step, plan.total_steps))
    policy.after_step(pass_)
    settings |= policy.step_scalars(progress)
    return StepResult(total_targets, sums, settings)


def add_sums(sums: dict[str, Tensor], more: dict[str, Tensor]) -> None:
    """Adds `more` to `sums`, name by name, in place."""
    for name, value in more.items():
        sums[name] = sums[name] + value if name in sums else value


def sum_over_ranks(sums: dict[str, Tensor], comm: Collectives) -> dict[str, Tensor]:
    """The sums over all ranks. They are added in float64 by one collective and end as float32."""
    flat = torch.cat([value.double().reshape(-1) for value in sums.values()])
    sizes = [value.numel() for value in sums.values()]
    parts = torch.split(comm.sum(flat).float(), sizes)
    return {
        name: part.reshape(value.shape)
        for (name, value), part in zip(sums.items(), parts, strict=True)
    }


class _LogWindow:
    """Sums since the last line of the log, which stay on the device until the next line."""

    def __init__(self, clock: Callable[[], float], step: int):
        self.clock = clock
        self.first_step = step
        self.started_s = clock()
        self.reset(step)

    def reset(self, step: int) -> None:
        self.step, self.opened_s = step, self.clock()
        self.sums: dict[str, Tensor] = {}
        self.times = {"data_s": 0.0, "step_s": 0.0}
        self.num_targets: Tensor | float = 0.0
        self.health: list[Tensor] = []
        self.settings: dict[str, Tensor | float] = {}

    def add(self, result: StepResult, **times: float) -> None:
        self.num_targets = self.num_targets + result.num_targets
        self.settings = result.settings
        self.health.append(result.sums["cross_entropy"].detach() + result.settings["grad_norm"])
        add_sums(self.sums, result.sums)
        for name, seconds in times.items():
            self.times[name] += seconds

    def flush(
        self,
        config: RunConfig,
        plan: StepPlan,
        policy: PolicyTraining,
        comm: Collectives,
        state: TrainState,
    ) -> dict[str, float]:
        """One line of the log. The loop waits for the device only here."""
        steps = state.step - self.step
        num_rows = steps * config.training.global_batch_rows
        means = {
            name: comm.sum(value.double()).cpu() / num_rows for name, value in self.sums.items()
        }
        loss = float(means.pop("cross_entropy") * num_rows / max(1.0, float(self.num_targets)))
        line = {"train/loss": loss}
        if "keep_L" in means:
            kept = float(means.pop("keep_L").mean())
            line |= {"policy/sampled_keep_frac": kept, **policy.window_scalars(kept)}
        for name, mean in means.items():
            line[f"train/{name}"] = float(mean)
        for name, value in self.settings.items():
            line[name if "/" in name else f"train/{name}"] = float(value)
        if not all(abs(value) < float("inf") for value in (loss, line["train/grad_norm"])):
            finite = torch.stack(self.health).isfinite().tolist()
            first = self.step + (finite.index(False) if False in finite else 0)
            raise NotFiniteError(
                f"step {state.step}: loss {loss}, gradient norm {line['train/grad_norm']}; "
                f"expected finite numbers; step {first + 1} was the first without. Lower "
                "training.learning_rate or set training.grad_clip_norm. No checkpoint has been "
                "saved since the last line of the log.",
                first,
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
