"""Scoring the validation split while training: accuracy, and whether the policy is personal."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from skiprec.policy.cost import CostPolicy, price_for
from skiprec.ranking import metrics_from_ranks
from skiprec.training.collectives import Collectives
from skiprec.training.engine import Engine
from skiprec.training.passes import Pass
from skiprec.types import Batch

VALIDATION_TILE_ROWS = 128


@dataclass(frozen=True)
class Validation:
    """`scalars` for the log, `keep_UL` the decisions of serving (rows by blocks)."""

    scalars: dict[str, float]
    keep_UL: NDArray[np.float32]


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
    keep_UL = gathered["keep_BL"][is_real].float()
    if with_policy:
        prob_UL = gathered.get("prob_BL")
        scalars |= policy_scalars(keep_UL, None if prob_UL is None else prob_UL[is_real].float())
    return Validation(scalars, keep_UL.numpy())


def calibrate_price(
    engine: Engine,
    tiles: list[tuple[Batch, int]],
    comm: Collectives,
    policy: CostPolicy,
    keep_frac: float,
) -> None:
    """Sets the price of a policy that predicts costs, so that these rows keep `keep_frac`.

    The same on every rank, as `validate`.
    """
    parts = []
    for batch, num_real in tiles:
        cost_BM = engine.forward(batch.to(engine.device), Pass("decide"))["cost_BM"]
        is_real_B1 = (torch.arange(len(cost_BM), device=engine.device) < num_real)[:, None]
        parts.append(torch.cat([cost_BM, is_real_B1.to(cost_BM.dtype)], dim=1))
    gathered = comm.gather(torch.cat(parts))
    cost_UM = gathered[gathered[:, -1] > 0, :-1]
    policy.price_1.fill_(price_for(cost_UM, policy.size_M, keep_frac))


def policy_scalars(keep_UL: Tensor, prob_UL: Tensor | None) -> dict[str, float]:
    """How much is kept, and how personally: a collapsed policy has a good mean, no variance."""
    kept_U = keep_UL.sum(1)
    scalars = {
        "policy/keep_frac": keep_UL.mean().item(),
        "policy/distinct_decisions": float(len(torch.unique(keep_UL, dim=0))),
        "policy/kept_blocks_std_between_users": kept_U.std(correction=0).item(),
    }
    if prob_UL is not None:
        scalars["policy/keep_prob_var_between_users"] = (
            prob_UL.var(dim=0, correction=0).mean().item()
        )
    for block, rate in enumerate(keep_UL.mean(0).tolist()):
        scalars[f"policy_blocks/{block:03d}"] = rate
    return scalars
