"""The engine on DeepSpeed; the only file that imports it.

Import this module in a worker only after `prepare_process`: DeepSpeed chooses its accelerator when
it is imported.
"""

import logging
import os
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from skiprec.training.objective import Objective
from skiprec.training.optim import kept_settings, set_learning_rates
from skiprec.training.passes import Pass
from skiprec.types import Batch


def prepare_process(use_gpu: bool) -> None:
    """Sets what DeepSpeed reads when it is imported."""
    os.environ.setdefault("DS_ACCELERATOR", "cuda" if use_gpu else "cpu")


def _import_deepspeed() -> Any:
    import deepspeed

    # Compiled by g++ at the first start (a minute); a process killed meanwhile leaves a lock that
    # hangs every later start. Training does not use it.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    logging.getLogger("DeepSpeed").setLevel(logging.ERROR)
    return deepspeed


class DeepSpeedEngine:
    """See `skiprec.training.engine.Engine`. The default process group must exist already.

    Args:
        settings: of `deepspeed_config`.
    """

    def __init__(
        self,
        objective: Objective,
        optimizer: torch.optim.Optimizer,
        settings: dict[str, Any],
        device: torch.device,
    ):
        self.deepspeed = _import_deepspeed()
        self.objective = objective
        self.device = device
        self.passes: int = settings["gradient_accumulation_steps"]
        self.zero_stage: int = settings["zero_optimization"]["stage"]
        self.clip_norm: float = settings["gradient_clipping"]
        self.pass_index = 0
        self.engine, self.optimizer, _, _ = self.deepspeed.initialize(
            model=objective, optimizer=optimizer, config=settings, dist_init_required=False
        )
        self.scale = float(settings["train_batch_size"])

    def forward_backward(self, batch: Batch, what: Pass) -> dict[str, Tensor]:
        """See `Engine`. DeepSpeed divides by passes and by ranks; `scale` multiplies it back."""
        if self.pass_index == 0:
            self.engine.train()
        sums: dict[str, Tensor] = self.engine(batch, what)
        self.engine.backward(sums.pop("loss") * self.scale)
        self.pass_index += 1
        if self.pass_index < self.passes:
            self.engine.step()  # only counts the pass
        return sums

    @torch.no_grad()
    def forward(self, batch: Batch, what: Pass) -> dict[str, Tensor]:
        """See `Engine`. Dropout is off where the pass says so."""
        self.engine.train(not what.turns_dropout_off)
        sums: dict[str, Tensor] = self.engine(batch, what)
        return sums

    def step(self, lr_factor: float) -> dict[str, Tensor | float]:
        """See `Engine`."""
        assert self.pass_index == self.passes, "a step needs all of its passes"
        self.pass_index = 0
        rates = set_learning_rates(self.optimizer, lr_factor)
        grad_norm = self._plain_grad_norm() if self.zero_stage == 0 else None
        self.engine.step()
        if grad_norm is None:
            grad_norm = self.engine.get_global_grad_norm()
        return {"grad_norm": grad_norm, **{f"lr/{name}": rate for name, rate in rates.items()}}

    def save(self, folder: Path) -> None:
        """See `Engine`; DeepSpeed's own files."""
        self.engine.save_checkpoint(str(folder), tag="state", save_latest=False)

    def load(self, folder: Path) -> None:
        """See `Engine`. The caller has verified the folder's manifest: DeepSpeed unpickles."""
        with kept_settings(self.optimizer):
            path, _ = self.engine.load_checkpoint(str(folder), tag="state")
        if path is None:
            raise ValueError(f"DeepSpeed found no checkpoint of its own in {folder}")

    def network_weights(self) -> dict[str, Tensor] | None:
        """See `Engine`; under ZeRO-3 the parameters are gathered from all ranks."""
        network = self.objective.network
        parameters: list[nn.Parameter] = list(network.parameters())
        is_partitioned = self.zero_stage == 3
        with self.deepspeed.zero.GatheredParameters(parameters, enabled=is_partitioned):
            if torch.distributed.get_rank() != 0:
                return None
            return {name: t.detach().cpu().clone() for name, t in network.state_dict().items()}

    def _plain_grad_norm(self) -> Tensor | None:
        # Stage 0 in float32 steps the torch optimizer itself and computes a norm only to clip.
        grads = [p.grad for p in self.objective.parameters() if p.grad is not None]
        return nn.utils.get_total_norm(grads) if grads else None
