"""Training steps in memory: random rows, a clock that counts calls, a sink that keeps its lines."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from skiprec.config.run import RunConfig
from skiprec.data.order import rank_slices
from skiprec.network import SkipRecNetwork
from skiprec.training.collectives import SingleProcess
from skiprec.training.engine import TorchEngine
from skiprec.training.loop import Request, run_step, train
from skiprec.training.objective import Objective
from skiprec.training.optim import build_optimizer
from skiprec.training.plan import StepPlan
from skiprec.training.state import TrainState
from skiprec.training.validation import Validation
from skiprec.types import Batch
from tests.testkit.networks import NUM_ITEMS, awaken, build_network, random_batch, take_rows

CPU = torch.device("cpu")


@dataclass(frozen=True)
class MemoryReader:
    """Reads new random rows at each step, in the passes of `rank_slices`."""

    global_batch_rows: int
    micro_batch_rows: int | None = None

    def micro_batches(self, step: int) -> list[Batch]:
        whole = random_batch(self.global_batch_rows, seed=1000 + step)
        slices = rank_slices(self.global_batch_rows, 1, 0, self.micro_batch_rows)
        return [take_rows(whole, slice(start, stop)) for start, stop in slices]


@dataclass
class MemorySink:
    lines: list[tuple[int, dict[str, float]]] = field(default_factory=list)
    pictures: list[int] = field(default_factory=list)

    def scalars(self, step: int, values: dict[str, float]) -> None:
        self.lines.append((step, values))

    def decisions(self, step: int, keep_RL: Any) -> None:
        self.pictures.append(step)

    def close(self) -> None: ...

    def values(self, name: str) -> list[float]:
        return [line[name] for _, line in self.lines if name in line]

    def steps(self, name: str) -> list[int]:
        return [step for step, line in self.lines if name in line]


def make_engine(config: RunConfig, seed: int = 0) -> TorchEngine:
    network = SkipRecNetwork(
        config.model, config.policy, NUM_ITEMS, config.training.activation_checkpointing
    )
    network.reset_parameters(seed)
    awaken(network, seed)
    optimizer = build_optimizer(network, config.training)
    return TorchEngine(Objective(network, config), optimizer, config.training, CPU)


def step_gradient(
    config: RunConfig, batches: list[Batch], step: int = 0, total_steps: int = 1
) -> dict[str, torch.Tensor]:
    """The gradient of one step over `batches`, measured by gradient descent at learning rate 1.

    For a number that a step changes without a gradient (a price), the result is minus its change.
    """
    network = build_network(config.model, config.policy).double()
    group = {"params": list(network.parameters()), "name": "all", "base_lr": 1.0}
    engine = TorchEngine(
        Objective(network, config), torch.optim.SGD([group], lr=1.0), config.training, CPU
    )
    before = {name: value.clone() for name, value in network.state_dict().items()}
    plan = StepPlan(total_steps, log_every=1, validate_every=None, checkpoint_every=None)
    run_step(config, plan, engine, batches, SingleProcess(), step)
    return {name: before[name] - value for name, value in network.state_dict().items()}


@dataclass
class Run:
    """Runs `train` with everything in memory, and is also its `LoopHooks`.

    `metrics` are the results of the next validations.
    """

    config: RunConfig
    total_steps: int
    metrics: tuple[float, ...] = ()
    saved: list[tuple[int, bool]] = field(default_factory=list)
    sink: MemorySink = field(default_factory=MemorySink)
    ticks: int = 0
    requests: dict[int, Request] = field(default_factory=dict)

    def go(
        self,
        engine: TorchEngine | None = None,
        state: TrainState | None = None,
        reader: Any = None,
    ) -> TrainState:
        training = self.config.training
        plan = StepPlan(
            self.total_steps,
            training.log_every_steps,
            training.validate_every_steps,
            training.checkpoint_every_steps,
        )
        return train(
            self.config,
            plan,
            engine or make_engine(self.config),
            reader or MemoryReader(training.global_batch_rows, training.micro_batch_rows),
            SingleProcess(),
            self.sink,
            self,
            state or TrainState(),
        )

    def beat(self, step: int) -> None: ...

    def validate(self) -> Validation:
        done = len(self.sink.steps("validation/mrr@20"))
        metric = self.metrics[done] if done < len(self.metrics) else 0.0
        keep_RL = np.ones((3, self.config.model.num_blocks), np.float32)
        return Validation({"validation/mrr@20": metric}, keep_RL)

    def save(self, state: TrainState) -> None:
        self.saved.append((state.step, state.best_step == state.step))

    def request(self) -> Request:
        return self.requests.get(self.sink.steps("train/loss")[-1], Request.NONE)

    def clock(self) -> float:
        self.ticks += 1
        return float(self.ticks)
