"""Scoring the validation split while training: accuracy, and whether the policy is personal."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from skiprec.ranking import metrics_from_ranks
from skiprec.training.collectives import Collectives
from skiprec.training.engine import Engine
from skiprec.types import Batch, Pass

VALIDATION_TILE_ROWS = 128


@dataclass(frozen=True)
class Validation:
    """`scalars` for the log, `keep_RL` the decisions of serving (rows by blocks)."""

    scalars: dict[str, float]
    keep_RL: NDArray[np.float32]


def validate(
    engine: Engine, tiles: list[tuple[Batch, int]], comm: Collectives, with_policy: bool
) -> Validation:
    """The same result on every rank; each rank must bring equally many tiles of one size."""
    parts: list[dict[str, Tensor]] = []
    for batch, num_real in tiles:
        out = engine.forward(batch.to(engine.device), Pass("validate"))
        is_real = torch.arange(len(batch.items_BW), device=engine.device) < num_real
        parts.append({**out, "is_real_B": is_real})
    gathered = {
        name: comm.gather(torch.cat([part[name] for part in parts])).cpu() for name in parts[0]
    }
    is_real = gathered["is_real_B"].bool()
    scalars = {
        f"validation/{name}": value
        for name, value in metrics_from_ranks(gathered["rank_B"][is_real]).items()
    }
    keep_RL = gathered["keep_BL"][is_real].float()
    if with_policy:
        prob_RL = gathered.get("prob_BL")
        scalars |= policy_scalars(keep_RL, None if prob_RL is None else prob_RL[is_real].float())
    return Validation(scalars, keep_RL.numpy())


def decide_rows(
    engine: Engine, tiles: list[tuple[Batch, int]], comm: Collectives
) -> dict[str, Tensor]:
    """What the policy decides in serving about the rows of all ranks: fields of `KeepDecision`.

    The same on every rank, as `validate`.
    """
    parts: list[dict[str, Tensor]] = []
    for batch, num_real in tiles:
        decision = engine.forward(batch.to(engine.device), Pass("decide"))
        is_real_B = torch.arange(len(batch.items_BW), device=engine.device) < num_real
        parts.append({**decision, "is_real_B": is_real_B})
    gathered = {name: comm.gather(torch.cat([part[name] for part in parts])) for name in parts[0]}
    is_real_R = gathered.pop("is_real_B").bool()
    return {name: value[is_real_R] for name, value in gathered.items()}


def policy_scalars(keep_RL: Tensor, prob_RL: Tensor | None) -> dict[str, float]:
    """How much is kept, and how personally: a collapsed policy has a good mean, no variance."""
    kept_R = keep_RL.sum(1)
    scalars = {
        "policy/keep_frac": keep_RL.mean().item(),
        "policy/distinct_decisions": float(len(torch.unique(keep_RL, dim=0))),
        "policy/kept_blocks_std_between_users": kept_R.std(correction=0).item(),
    }
    if prob_RL is not None:
        scalars["policy/keep_prob_var_between_users"] = (
            prob_RL.var(dim=0, correction=0).mean().item()
        )
    for block, rate in enumerate(keep_RL.mean(0).tolist()):
        scalars[f"policy_blocks/{block:03d}"] = rate
    return scalars
