"""Validation during training: accuracy, and how much decisions differ between users."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from skiprec.ranking import metrics_from_ranks
from skiprec.training.collectives import Collectives
from skiprec.training.engine import Engine
from skiprec.training.objective import AT_DEPTH
from skiprec.types import Batch, Pass

VALIDATION_TILE_ROWS = 128


@dataclass(frozen=True)
class Validation:
    """The result of a validation: numbers for the log, and the decisions of serving."""

    scalars: dict[str, float]
    keep_RL: NDArray[np.float32]


def validate(
    engine: Engine, tiles: list[tuple[Batch, int]], comm: Collectives, with_policy: bool
) -> Validation:
    """The validation over the tiles of all ranks; the result is the same on every rank.

    Args:
        tiles: batches, each with its number of real rows; the rows after these are fill. Every rank
            must bring the same number of tiles of the same size.
    """
    parts: list[dict[str, Tensor]] = []
    for batch, num_real in tiles:
        scored = engine.forward(batch.to(engine.device), Pass("validate"))
        is_real_B = torch.arange(len(batch.items_BW), device=engine.device) < num_real
        parts.append({**scored, "is_real_B": is_real_B})
    gathered = {
        name: comm.gather(torch.cat([part[name] for part in parts])).cpu() for name in parts[0]
    }
    is_real_R = gathered["is_real_B"].bool()
    scalars = {
        f"validation/{name}": value
        for name, value in metrics_from_ranks(gathered["rank_B"][is_real_R]).items()
    }
    for name, rank_R in gathered.items():
        if name.startswith(AT_DEPTH):
            depth = int(name.removeprefix(AT_DEPTH))
            for metric, value in metrics_from_ranks(rank_R[is_real_R]).items():
                scalars[f"validation_exits/{depth:03d}_{metric}"] = value
    keep_RL = gathered["keep_BL"][is_real_R].float()
    if with_policy:
        prob_RL = gathered.get("prob_BL")
        scalars |= policy_scalars(keep_RL, None if prob_RL is None else prob_RL[is_real_R].float())
    return Validation(scalars, keep_RL.numpy())


def decide_rows(
    engine: Engine, tiles: list[tuple[Batch, int]], comm: Collectives
) -> dict[str, Tensor]:
    """The decisions of serving for the rows of all ranks, by the names of `KeepDecision`.

    The result is the same on every rank. `tiles` are as in `validate`.
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
    """Share of kept blocks, and differences between users.

    A policy that decides the same for everyone may have a good mean, but has no variance.
    """
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
